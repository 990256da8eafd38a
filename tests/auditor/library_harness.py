"""Storage's books and a real object store with the files in them, and the scanner that compares both."""

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
from sqlalchemy import text

from auditor.library import Library, LibraryAddress
from auditor.loops.library_scanner import LibraryScanner
from auditor.pace import Pace
from auditor.repository.library import ScanKind
from contracts.object_keys import poster_key, thumbnail_key
from contracts.storage import Preview
from local_platform.servers import S3Server
from messaging.ids import new_id
from messaging.transaction import Transactions
from tests.support.databases import Database


@dataclass(frozen=True)
class StoredAsset:
    """An asset as storage has left it."""

    generation_id: UUID
    output: str
    poster: str
    thumbnail: str


@dataclass
class LibraryHarness:
    """``scanner`` works with the rights and the token of the auditor."""

    database: Database
    s3: S3Server
    library: Library
    scanner: LibraryScanner

    async def store(self, body: bytes = b"a clip", *, own_poster: bool = False) -> StoredAsset:
        """Do what storage does: write a clip and its poster, and record them; or a picture that is its own poster."""
        user, generation_id, sha256 = uuid4(), uuid4(), hashlib.sha256(body).hexdigest()
        output = f"{user}/{generation_id}/output.mp4"
        asset = StoredAsset(
            generation_id,
            output,
            output if own_poster else poster_key(user, generation_id, sha256),
            thumbnail_key(user, generation_id, sha256, 256),
        )
        if not own_poster:
            self.put(asset.poster, b"a poster")
        self.put(asset.output, body)
        asset_id = new_id()
        values = {"asset": asset_id, "user": user, "generation": generation_id, "sha256": sha256, "size": len(body)}
        await self.execute(
            """
            INSERT INTO storage.assets (asset_id, generation_id, role, user_id, attempt_id, attempt_number, object_key,
                                        poster_object_key, size_bytes, sha256, media)
            VALUES (:asset, :generation, 'output', :user, gen_random_uuid(), 1, :output, :poster, :size, :sha256, '{}')
            """,
            **values,
            output=asset.output,
            poster=asset.poster,
        )
        await self._record_thumbnail(asset_id, user, asset)
        return asset

    async def _record_thumbnail(self, asset_id: UUID, user: UUID, asset: StoredAsset) -> None:
        body = b"a thumbnail"
        self.put(asset.thumbnail, body)
        thumbnail = Preview(
            object_key=asset.thumbnail,
            content_type="image/webp",
            width_pixels=256,
            height_pixels=144,
            size_bytes=len(body),
            sha256=hashlib.sha256(body).hexdigest(),
        )
        await self.execute(
            """
            INSERT INTO storage.previews (asset_id, generation_id, user_id, due_at, ended_at, outcome, thumbnails)
            VALUES (:asset, :generation, :user, NULL, now(), 'stored', CAST(:thumbnails AS jsonb))
            """,
            asset=asset_id,
            generation=asset.generation_id,
            user=user,
            thumbnails=msgspec.json.encode([thumbnail]).decode(),
        )

    async def record_deletion(self, asset: StoredAsset) -> None:
        """Do what storage does with a user's delete, but for the files."""
        await self.execute(
            """
            INSERT INTO storage.deletions (generation_id, user_id, message_id, requested_at, due_at, deleted_at)
            VALUES (:generation, gen_random_uuid(), gen_random_uuid(), now(), NULL, now())
            """,
            generation=asset.generation_id,
        )

    def put(self, key: str, body: bytes) -> None:
        """Write an object, with its checksum beside it, as storage does."""
        metadata = {"sha256": hashlib.sha256(body).hexdigest()}
        self.s3.client("storage").put_object(Bucket="library", Key=key, Body=body, Metadata=metadata)

    def delete(self, key: str) -> None:
        """Remove an object."""
        self.s3.client("admin").delete_object(Bucket="library", Key=key)

    def empty(self) -> None:
        """Remove what other tests have left."""
        client = self.s3.client("admin")
        for page in client.get_paginator("list_objects_v2").paginate(Bucket="library"):
            for one in page.get("Contents", ()):
                client.delete_object(Bucket="library", Key=one["Key"])

    async def read_all(self) -> None:
        """Read every recorded file, as the scans of a month do."""
        await self.scanner.make_scans(timedelta(0), timedelta(0))
        await self.work("assets")

    async def list_all(self) -> None:
        """List the bucket to its end."""
        await self.work("bucket")

    async def work(self, kind: ScanKind) -> None:
        """Work until no scan of this kind is due."""
        worker = self.scanner.worker(kind)
        while await worker.fill():
            await worker.idle()

    async def make_due(self, kind: ScanKind) -> None:
        """Let the time pass until the scans begin anew."""
        await self.execute("UPDATE auditor.library_scans SET due_at = now() WHERE kind = :kind", kind=kind)

    async def findings(self) -> dict[str, tuple[str, str]]:
        """Code and what was found, by the key of the object: of the findings that are open."""
        rows = await self.rows("SELECT subject_key, code, found FROM auditor.findings WHERE resolved_at IS NULL")
        return {key: (code, found) for key, code, found in rows}

    async def rows(self, statement: str) -> list[Any]:
        async with self.database.superuser_engine(1).begin() as connection:
            return list(await connection.execute(text(statement)))

    async def execute(self, statement: str, **values: object) -> None:
        async with self.database.superuser_engine(1).begin() as connection:
            await connection.execute(text("SET LOCAL session_replication_role = replica"))
            await connection.execute(text(statement), values)


def address_of(s3: S3Server, endpoint_url: str | None = None) -> LibraryAddress:
    """The library, with the auditor's token."""
    url = endpoint_url or s3.endpoint_url
    return LibraryAddress(url, url, s3.region, *s3.credentials["auditor"], "library")


def library_harness(database: Database, s3: S3Server, address: LibraryAddress) -> LibraryHarness:
    """Reads as fast as it can, and gives an object no time to find its order."""
    library = Library(address, Pace(1e9, 1e12))
    transactions = Transactions(database.engine("auditor", 3), producer="auditor")
    return LibraryHarness(database, s3, library, LibraryScanner(transactions, library, timedelta(seconds=-5)))
