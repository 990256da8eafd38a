"""The job request for a claimed order, with single-key addresses instead of credentials."""

from datetime import timedelta
from typing import Final

from catalogue import Catalogue, Model
from generation.callback_urls import CallbackUrls
from generation.repository.fair_queue import ClaimedOrder
from generation.runpod.job import InputImage, JobInput, JobPolicy, JobRequest, RequestedOutput
from generation.stock_inputs import StockInputs
from service_runtime.database_watch import DatabaseClock
from service_runtime.presigned_urls import PresignedUrls
from service_runtime.tracing import current_traceparent, is_sampled

_MARGIN: Final = timedelta(hours=1)
"""How much longer than the job can live its addresses are valid."""


class JobRequests:
    """Builds the body of ``/run`` for a claimed order. A network call is made only for the stock worker."""

    def __init__(
        self,
        catalogue: Catalogue,
        callbacks: CallbackUrls,
        urls: PresignedUrls,
        incoming: str,
        uploads: str,
        stock: StockInputs,
        clock: DatabaseClock,
    ) -> None:
        self._clock = clock
        self._stock = stock
        self._catalogue = catalogue
        self._callbacks = callbacks
        self._urls = urls
        self._incoming = incoming
        self._uploads = uploads

    async def build(self, order: ClaimedOrder) -> JobRequest:
        """Raises UnknownModel if the catalogue has changed under the order, and what ``StockInputs.build`` raises."""
        model = self._catalogue.model(order.model_id)
        lifetime = timedelta(seconds=model.provider_ttl_seconds) + _MARGIN
        callback = self._callbacks.url(order.attempt_id, int(self._clock.now() + lifetime.total_seconds()))
        policy = JobPolicy(
            execution_timeout=order.execution_timeout_seconds * 1000, ttl=model.provider_ttl_seconds * 1000
        )
        if self._stock.serve(order.endpoint):
            return JobRequest(input=await self._stock.build(order, model), webhook=_traced(callback), policy=policy)
        job = self._input(order, model, callback, lifetime)
        return JobRequest(input=job, webhook=_traced(callback), policy=policy)

    def _input(self, order: ClaimedOrder, model: Model, callback: str, lifetime: timedelta) -> JobInput:
        return JobInput(
            generation_id=order.generation_id,
            attempt_id=order.attempt_id,
            attempt_number=order.attempt_number,
            kind=order.kind,
            model_id=order.model_id,
            parameters=order.parameters,
            workflow=model.bind_workflow(order.parameters),
            images=tuple(
                InputImage(name=model.upload_name(parameter), url=self._urls.get(self._uploads, key, lifetime))
                for parameter, key in order.input_object_keys.items()
            ),
            output=RequestedOutput(
                object_key=order.object_key,
                put_url=self._urls.put(self._incoming, order.object_key, lifetime),
                content_type=model.output_content_type,
                max_size_bytes=order.max_size_bytes,
            ),
            progress_url=_traced(f"{callback}/progress"),
        )


def _traced(url: str) -> str:
    """The address with the trace of this submission, if that is recorded: RunPod sends no headers of ours back."""
    traceparent = current_traceparent()
    return f"{url}?traceparent={traceparent}" if is_sampled(traceparent) else url
