"""What can be made and bought. The same for everybody."""

import hashlib
from typing import Annotated

import msgspec
from fastapi import APIRouter, Header, Response

from catalogue.model import Tier as CatalogueTier
from gateway.offer_representations import CreditPack, CreditPackList, Licence, Model, ModelList, Surcharges, Tier
from gateway.openapi import Responses
from gateway.routes.request_context import LIMITED_BY_ADDRESS, CurrentDependencies

router = APIRouter(tags=["offers"], dependencies=[LIMITED_BY_ADDRESS])

NOT_MODIFIED: Responses = {304: {"description": "As in the answer that had this ETag."}}


@router.get("/v1/models", operation_id="listModels", response_model=ModelList, responses=NOT_MODIFIED)
async def list_models(
    dependencies: CurrentDependencies, if_none_match: Annotated[str | None, Header(include_in_schema=False)] = None
) -> Response:
    """Every model with the schema of its parameters and its price rule. Cache it by its ETag."""
    offers = ModelList(
        items=[
            Model(
                id=model.id,
                title=model.title,
                description=model.description,
                kind=model.kind,
                parameters_schema=model.parameters_schema,
                price=_rates(model.default_tier),
                surcharges=Surcharges(**msgspec.to_builtins(model.default_tier.surcharges)),
                tiers=[
                    Tier(
                        id=tier.id,
                        title=tier.title,
                        from_steps=tier.from_steps,
                        price=_rates(tier),
                        surcharges=Surcharges(**msgspec.to_builtins(tier.surcharges)),
                    )
                    for tier in model.tiers
                ],
                audio=model.audio,
                licence=Licence(**msgspec.to_builtins(model.licence)),
                max_pixels=model.limits.max_pixels,
                max_count=model.max_count,
                order_deadline_seconds=model.order_deadline_seconds,
            )
            for model in dependencies.catalogue.offered
        ]
    )
    body = offers.model_dump_json().encode()
    headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"', "Cache-Control": "public, max-age=60"}
    if if_none_match is not None and headers["ETag"] in _tags(if_none_match):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


def _rates(tier: CatalogueTier) -> dict[str, str]:
    return {key: value for key, value in msgspec.structs.asdict(tier.price).items() if value != "0"}


def _tags(if_none_match: str) -> set[str]:
    """The tags of the header; a proxy that compressed the answer has made them weak."""
    return {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}


@router.get("/v1/credit-packs", operation_id="listCreditPacks")
async def list_credit_packs(dependencies: CurrentDependencies) -> CreditPackList:
    """Every credit pack, cheapest first."""
    return CreditPackList(items=[CreditPack(**msgspec.structs.asdict(pack)) for pack in dependencies.packs.values()])
