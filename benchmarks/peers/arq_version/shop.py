"""What the API and the worker share: settings, tables, the database and the object store."""

import os
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import aioboto3
from arq.connections import RedisSettings
from botocore.config import Config
from sqlalchemy import ForeignKey, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

PRICE_CREDITS: Final = 1

engine = create_async_engine(os.environ["DATABASE_URL"], pool_size=10)
sessions = async_sessionmaker(engine, expire_on_commit=False)
redis_settings = RedisSettings.from_dsn(os.environ["REDIS_URL"])


class Base(DeclarativeBase):
    """All tables."""


class Customer(Base):
    """A user and their credits."""

    __tablename__ = "users"

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    credits: Mapped[int]


class Generation(Base):
    """An order: queued, submitted, storing, completed."""

    __tablename__ = "generations"

    generation_id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.user_id"))
    model_id: Mapped[str]
    parameters: Mapped[dict[str, Any]] = mapped_column(JSONB)
    price_credits: Mapped[int]
    status: Mapped[str] = mapped_column(default="queued")
    job_id: Mapped[str | None]
    object_key: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    submitted_at: Mapped[datetime | None]
    callback_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


def s3_client() -> Any:
    """A context manager that gives a client of the object store."""
    return aioboto3.Session().client(
        "s3",
        endpoint_url=os.environ["S3_ENDPOINT_URL"],
        region_name=os.environ["S3_REGION"],
        aws_access_key_id=os.environ["S3_ACCESS_KEY_ID"],
        aws_secret_access_key=os.environ["S3_SECRET_ACCESS_KEY"],
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
