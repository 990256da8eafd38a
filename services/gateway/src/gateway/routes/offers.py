"""What can be made and bought. The same for everybody."""

import hashlib
from typing import Annotated

import msgspec
from fastapi import APIRouter, Header, Response

from gateway.dependencies import CurrentParts
from gateway.openapi import Responses
from gateway.representations import ModelList, ModelShown, PackList, PackShown, SurchargesShown

router = APIRouter(tags=["offers"])

NOT_MODIFIED: Responses = {304: {"description": "As in the answer that had this ETag."}}


@router.get("/v1/models", operation_id="listModels", response_model=ModelList, responses=NOT_MODIFIED)
async def list_models(
    parts: CurrentParts, if_none_match: Annotated[str | None, Header(include_in_schema=False)] = None
) -> Response:
    """Every model with the schema of its parameters and its price rule. Cache it by its ETag."""
    shown = ModelList(
        items=[
            ModelShown(
                id=model.id,
                title=model.title,
                description=model.description,
                kind=model.kind,
                parameters_schema=model.parameters_schema,
                price={key: value for key, value in msgspec.structs.asdict(model.price).items() if value != "0"},
                surcharges=SurchargesShown(**msgspec.to_builtins(model.surcharges)),
                max_pixels=model.limits.max_pixels,
                order_deadline_seconds=model.order_deadline_seconds,
            )
            for model in parts.catalogue.models
        ]
    )
    body = shown.model_dump_json().encode()
    headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"', "Cache-Control": "public, max-age=60"}
    if if_none_match is not None and headers["ETag"] in _tags(if_none_match):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


def _tags(if_none_match: str) -> set[str]:
    """The tags of the header; a proxy that compressed the answer has made them weak."""
    return {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}


@router.get("/v1/credit-packs", operation_id="listCreditPacks")
async def list_credit_packs(parts: CurrentParts) -> PackList:
    """Every credit pack, cheapest first."""
    return PackList(items=[PackShown(**msgspec.structs.asdict(pack)) for pack in parts.packs.values()])
