"""An example of everything that the API takes and gives, by the name of its schema: one order, from quote to file."""

from typing import Any, Final

_ID: Final = "01999c1e-4b7a-7c21-9d0e-5a1f2b3c4d5e"
_ORDER: Final = {
    "model_id": "wan-2.2-t2v",
    "parameters": {"prompt": "a lighthouse in a storm, slow push in", "duration_seconds": 5},
}
_TRANSITION: Final = {
    "generation_id": _ID,
    "name": "running",
    "status": "running",
    "version": 3,
    "attempt_number": 1,
    "at": "2026-11-23T09:28:14.402Z",
}
_ROOT: Final = "5f0b1c7d0a9e3e2d4c6b8a7990f1e2d3c4b5a69788796a5b4c3d2e1f0a9b8c7d"
_HEAD: Final = {
    "tree_size": 48213,
    "root_hash": _ROOT,
    "published_at": "2026-11-23T09:29:00Z",
}
_USAGE: Final = {
    "day": "2026-11-23",
    "model_id": "wan-2.2-t2v",
    "kind": "video",
    "orders": 5,
    "completed": 4,
    "captured_credits": 32,
}


def _picture(name: str, width: int, height: int, size_bytes: int) -> dict[str, Any]:
    return {
        "url": f"https://library.example/{name}.webp?X-Amz-Signature=...",
        "content_type": "image/webp",
        "width_pixels": width,
        "height_pixels": height,
        "size_bytes": size_bytes,
    }


def _variant(number: int, status: str, captured_credits: int | None) -> dict[str, Any]:
    return {
        "id": _ID[:-1] + "edf"[number - 1],
        "variant_number": number,
        "status": status,
        "captured_credits": captured_credits,
        "deleted": False,
    }


EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    "QuoteRequest": {**_ORDER, "count": 2},
    "Quote": {
        **_ORDER,
        "price_credits": 8,
        "count": 2,
        "total_price_credits": 16,
        "lines": [{"label": "base", "credits": 2}, {"label": "size and length", "credits": 6}],
        "missing": [],
        "terms": {"running_cancels_per_day": 3},
    },
    "GenerationRequest": {**_ORDER, "count": 2, "max_price_credits": 20, "start_within_seconds": 600},
    "Generation": {
        "id": _ID,
        "status": "completed",
        **_ORDER,
        "kind": "video",
        "price_credits": 8,
        "captured_credits": 8,
        "attempt_number": 1,
        "queue_position": None,
        "estimated_start_at": None,
        "estimated_start_p90_at": None,
        "estimated_completion_at": None,
        "estimated_completion_p90_at": None,
        "late": False,
        "failure": None,
        "download": {
            "url": "https://library.example/output.mp4?X-Amz-Signature=...",
            "save_url": "https://library.example/output.mp4?response-content-disposition=...&X-Amz-Signature=...",
            "file_name": "wan-2.2-t2v-20261123-092813-3c4d5e.mp4",
            "poster_url": "https://library.example/poster.jpg?X-Amz-Signature=...",
            "thumbnails": [
                _picture("thumbnail-256", 256, 148, 9566),
                _picture("thumbnail-512", 512, 295, 21576),
                _picture("thumbnail-832", 832, 480, 40112),
            ],
            "animated_preview": _picture("animated", 320, 185, 58231),
            "expires_at": "2026-11-23T09:45:00Z",
            "content_type": "video/mp4",
            "size_bytes": 2481920,
            "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "width_pixels": 832,
            "height_pixels": 480,
            "duration_ms": 5063,
            "frames_per_second": 16.0,
        },
        "requested_at": "2026-11-23T09:28:13Z",
        "expires_at": "2026-11-23T11:28:13Z",
        "start_before_at": "2026-11-23T09:38:13Z",
        "completed_at": "2026-11-23T09:30:02Z",
        "variant_of": _ID,
        "variant_number": 1,
        "count": 2,
        "variants": [_variant(1, "completed", 8), _variant(2, "running", None)],
        "total_price_credits": 16,
        "total_captured_credits": 8,
    },
    "VerifyRequest": {"sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"},
    "Verification": {
        "made_here": True,
        "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "kind": "video",
        "digital_source_type": "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia",
        "explanation": "This file was made by AI, with Reelhouse, and is as it was delivered.",
    },
    "TimelineEntry": {
        "at": "2026-11-23T09:28:14.402Z",
        "name": "running",
        "detail": {"status": "running", "version": 3, "attempt_number": 1, "generation_id": _ID},
        "since_previous_ms": 812.4,
    },
    "Balance": {
        "available_credits": 242,
        "reserved_credits": 8,
        "settled_credits": 750,
        "receivable_credits": 0,
        "updated_at": "2026-11-23T09:28:13Z",
    },
    "LedgerLine": {
        "line_number": 17,
        "reason": "reserve",
        "available_delta_credits": -8,
        "reserved_delta_credits": 8,
        "receivable_delta_credits": 0,
        "available_after_credits": 242,
        "reserved_after_credits": 8,
        "receivable_after_credits": 0,
        "generation_id": _ID,
        "payment_id": None,
        "note": None,
        "occurred_at": "2026-11-23T09:28:13Z",
    },
    "LedgerHead": _HEAD,
    "LedgerConsistency": {
        "first": _HEAD,
        "second": _HEAD | {"tree_size": 50117, "root_hash": _ROOT[::-1], "published_at": "2026-11-24T09:29:00Z"},
        "path": [_ROOT, _ROOT[::-1]],
    },
    "LedgerReceipt": {
        "line_number": 17,
        "head": _HEAD,
        "postings": [
            {
                "posting": '[48100,"01999c1e-4b7a-7c21-9d0e-5a1f2b3c4d5f","user:available",-8,"reserve",...]',
                "nonce": _ROOT,
                "leaf_index": 48099,
                "path": [_ROOT, _ROOT[::-1]],
            }
        ],
    },
    "CreditPack": {
        "id": "starter",
        "title": "Starter",
        "price_cents": 1000,
        "currency": "usd",
        "credits": 1000,
        "bonus_credits": 0,
    },
    "PaymentRequest": {
        "pack_id": "starter",
        "provider": "stripe",
        "return_url": "https://app.example.com/credits",
    },
    "Payment": {
        "id": _ID,
        "status": "pending",
        "provider": "stripe",
        "pack_id": "starter",
        "price_cents": 1000,
        "currency": "usd",
        "credits": 1000,
        "bonus_credits": 0,
        "refunded_cents": 0,
        "checkout_url": "https://checkout.stripe.com/c/pay/cs_...",
        "detail": None,
        "receipt_url": None,
        "created_at": "2026-11-23T09:28:13Z",
        "expires_at": "2026-11-23T10:28:13Z",
    },
    "RepeatRequest": {"parameters": {"duration_seconds": 3}, "count": 1, "max_price_credits": 10},
    "UsageEntry": _USAGE,
    "Usage": {"day_from": "2026-11-01", "day_to": "2026-11-30", "items": [_USAGE]},
    "UploadRequest": {"content_type": "image/png", "size_bytes": 184320},
    "Upload": {
        "id": _ID,
        "url": "https://uploads.example/...?X-Amz-Signature=...",
        "headers": {"Content-Type": "image/png", "Content-Length": "184320", "If-None-Match": "*"},
        "expires_at": "2026-11-23T09:43:13Z",
    },
    "GenerationUpdated": _TRANSITION,
    "PaymentUpdated": {
        "payment_id": _ID,
        "name": "payment_paid",
        "status": "settled",
        "version": 3,
        "reason": "paid",
        "at": "2026-11-23T09:31:40Z",
    },
    "BalanceUpdated": {
        "name": "balance_updated",
        "available_credits": 242,
        "reserved_credits": 8,
        "receivable_credits": 0,
        "line_number": 17,
        "reason": "reserve",
        "at": "2026-11-23T09:28:13Z",
    },
    "GenerationProgress": {
        "generation_id": _ID,
        "user_id": "01999c1e-0000-7c21-9d0e-5a1f2b3c4d5e",
        "attempt_number": 1,
        "percent": 40,
        "step": 2,
        "steps": 4,
        "stage": "rendering",
        "node": "High noise steps",
        "preview": "/9j/4AAQSkZJRgABAQAAAQABAAD/2Q==",
    },
    "GenerationEstimated": {
        "generation_id": _ID,
        "queue_position": 3,
        "estimated_start_at": "2026-11-23T09:28:40Z",
        "estimated_start_p90_at": "2026-11-23T09:29:05Z",
        "estimated_completion_at": "2026-11-23T09:30:10Z",
        "estimated_completion_p90_at": "2026-11-23T09:31:00Z",
    },
    "StreamedEvent": {"event": "generation.updated", "data": _TRANSITION, "id": "42"},
    "Problem": {
        "type": "urn:reelhouse:problem:insufficient-credits",
        "title": "There are too few credits",
        "status": 402,
        "code": "insufficient_credits",
        "retryable": False,
        "instance": "/v1/generations",
        "required": 56,
        "available": 12,
        "generation_id": _ID,
    },
}

_NOT_YET: Final = dict.fromkeys(("captured_credits", "attempt_number", "download", "completed_at"))
_REQUESTED: Final = (
    EXAMPLES["Generation"]
    | _NOT_YET
    | {
        "status": "requested",
        "variants": [_variant(1, "requested", None), _variant(2, "requested", None)],
        "total_captured_credits": 0,
    }
)
_RULES: Final[dict[str, Any]] = {
    "price": {"base_credits": "17/50", "per_megapixel_credits": "9/20"},
    "surcharges": {"resolutions": [], "steps": {"included": 4, "share_per_extra_step": "1/8"}},
}
_MODEL: Final[dict[str, Any]] = {
    "id": "flux-schnell",
    "title": "FLUX.1 schnell",
    "description": "A picture in a few seconds.",
    "kind": "image",
    "parameters_schema": {
        "type": "object",
        "additionalProperties": False,
        "required": ["prompt"],
        "properties": {
            "prompt": {"type": "string", "title": "Prompt", "minLength": 1, "maxLength": 2000},
            "width": {"type": "integer", "title": "Width", "minimum": 256, "maximum": 2048, "default": 1024},
        },
    },
    **_RULES,
    "tiers": [{"id": "standard", "title": "Standard", "from_steps": 1, **_RULES}],
    "audio": False,
    "licence": {
        "name": "Apache License 2.0",
        "spdx": "Apache-2.0",
        "url": "https://huggingface.co/black-forest-labs/FLUX.1-schnell",
        "excluded_territories": [],
        "conditions": "None beyond the licence.",
    },
    "max_pixels": 2097152,
    "max_count": 4,
    "order_deadline_seconds": 3600,
}

ANSWERS: Final[dict[str, dict[str, Any]]] = {
    "createGeneration": _REQUESTED,
    "repeatGeneration": _REQUESTED,
    "listGenerations": {"items": [EXAMPLES["Generation"]], "next_cursor": "WyIyMDI2LTExLTIzVDA5OjI4OjEzWiJd"},
    "getGenerationTimeline": {"items": [EXAMPLES["TimelineEntry"]]},
    "cancelGeneration": _REQUESTED | {"status": "queued"},
    "getLedger": {"items": [EXAMPLES["LedgerLine"]], "next_before": 17},
    "listLedgerHeads": {"items": [EXAMPLES["LedgerHead"]], "next_before": None},
    "listModels": {"items": [_MODEL]},
    "listCreditPacks": {"items": [EXAMPLES["CreditPack"]]},
    "listPayments": {"items": [EXAMPLES["Payment"]], "next_cursor": None},
    "getPaymentTimeline": {
        "items": [
            {
                "at": "2026-11-23T09:31:40Z",
                "name": "payment_paid",
                "detail": {"payment_id": _ID, "status": "settled", "version": 3, "reason": "paid"},
                "since_previous_ms": 206412.7,
            }
        ]
    },
}
"""What an operation answers, where that is not the example of its schema."""
