"""Answers about the server and its model: metadata, configuration, statistics, index."""

from __future__ import annotations

from mse_grad.open_inference import inference_pb2 as oip
from mse_grad.tensor import FLOAT32
from mse_grad.version import VERSION as SERVER_VERSION
from mse_grad_server.backends.base import Backend
from mse_grad_server.engine.engine import Engine
from mse_grad_server.errors import ModelUnknown
from mse_grad_server.metrics.collectors import DurationHistogram
from mse_grad_server.metrics.registry import Metrics
from mse_grad_server.process.state import State
from mse_grad_server.rpc.open_inference.model import INPUTS, MODEL, OUTPUT, VERSION, check_model, datatype_of

__all__ = ["Descriptions"]

_NAME = "mse-grad"
# Extensions of the protocol that the server has, by the names that its clients know.
_EXTENSIONS = ("model_configuration", "model_repository", "statistics", "parameters")
# The model takes any shape of rank 0 to 8; clients that need one shape in its description get a vector of any length.
_ANY = (-1,)


class Descriptions:
    """Answers to the small methods, in words of the protocol; belongs to the event loop.

    Args:
        engine: Tells whether requests are accepted.
        metrics: Metrics of all requests of the server, of whatever protocol.
        backend: Backend of the server.
    """

    def __init__(self, engine: Engine, metrics: Metrics, *, backend: Backend) -> None:
        self._engine = engine
        self._metrics = metrics
        self._backend = backend

    @property
    def _is_ready(self) -> bool:
        return self._engine.state is State.READY

    def server_live(self, _: oip.ServerLiveRequest) -> oip.ServerLiveResponse:
        """Answers ServerLive."""
        return oip.ServerLiveResponse(live=True)

    def server_ready(self, _: oip.ServerReadyRequest) -> oip.ServerReadyResponse:
        """Answers ServerReady."""
        return oip.ServerReadyResponse(ready=self._is_ready)

    def model_ready(self, request: oip.ModelReadyRequest) -> oip.ModelReadyResponse:
        """Answers ModelReady; another model is not ready."""
        try:
            check_model(request.name, request.version)
        except ModelUnknown:
            return oip.ModelReadyResponse(ready=False)
        return oip.ModelReadyResponse(ready=self._is_ready)

    def server_metadata(self, _: oip.ServerMetadataRequest) -> oip.ServerMetadataResponse:
        """Answers ServerMetadata."""
        return oip.ServerMetadataResponse(name=_NAME, version=SERVER_VERSION, extensions=_EXTENSIONS)

    def model_metadata(self, request: oip.ModelMetadataRequest) -> oip.ModelMetadataResponse:
        """Answers ModelMetadata.

        The model takes four datatypes and any rank, which the protocol cannot say; the answer names FP32 vectors.

        Raises:
            ModelUnknown: The server has no such model.
        """
        check_model(request.name, request.version)
        tensor = oip.ModelMetadataResponse.TensorMetadata
        datatype = datatype_of(FLOAT32)
        return oip.ModelMetadataResponse(
            name=MODEL,
            versions=[VERSION],
            platform=_NAME,
            inputs=[tensor(name=name, datatype=datatype, shape=_ANY) for name in INPUTS],
            outputs=[tensor(name=OUTPUT, datatype=datatype, shape=_ANY)],
        )

    def model_config(self, request: oip.ModelConfigRequest) -> oip.ModelConfigResponse:
        """Answers ModelConfig; see `model_metadata`.

        Raises:
            ModelUnknown: The server has no such model.
        """
        check_model(request.name, request.version)
        return oip.ModelConfigResponse(
            config=oip.ModelConfig(
                name=MODEL,
                platform=_NAME,
                backend=self._backend.name,
                input=[oip.ModelInput(name=name, data_type=oip.TYPE_FP32, dims=_ANY) for name in INPUTS],
                output=[oip.ModelOutput(name=OUTPUT, data_type=oip.TYPE_FP32, dims=_ANY)],
                model_transaction_policy=oip.ModelTransactionPolicy(decoupled=False),
            )
        )

    def model_statistics(self, request: oip.ModelStatisticsRequest) -> oip.ModelStatisticsResponse:
        """Answers ModelStatistics from the metrics of all requests, of whatever protocol.

        Raises:
            ModelUnknown: The server has no such model.
        """
        if request.name:
            check_model(request.name, request.version)
        totals = self._metrics.requests.totals()
        phases = self._metrics.phases

        def step(duration: DurationHistogram) -> oip.StatisticDuration:
            # Every request passes every step, if only for no time: clients divide by these counts.
            return oip.StatisticDuration(count=totals.succeeded, ns=round(duration.totals()[1] * 1e9))

        statistics = oip.InferStatistics(
            success=oip.StatisticDuration(count=totals.succeeded, ns=round(totals.seconds * 1e9)),
            fail=oip.StatisticDuration(count=totals.failed),
            queue=step(phases.queue),
            compute_input=step(phases.decode),
            compute_infer=step(phases.kernel),
            compute_output=step(phases.encode),
        )
        return oip.ModelStatisticsResponse(
            model_stats=[
                oip.ModelStatistics(
                    name=MODEL,
                    version=VERSION,
                    inference_count=totals.succeeded,
                    execution_count=phases.kernel.totals()[0],
                    inference_stats=statistics,
                )
            ]
        )

    def repository_index(self, request: oip.RepositoryIndexRequest) -> oip.RepositoryIndexResponse:
        """Answers RepositoryIndex."""
        if request.ready and not self._is_ready:
            return oip.RepositoryIndexResponse()
        index = oip.RepositoryIndexResponse.ModelIndex(
            name=MODEL,
            version=VERSION,
            state="READY" if self._is_ready else "UNAVAILABLE",
            reason="" if self._is_ready else f"the server is {self._engine.state.name.lower()}",
        )
        return oip.RepositoryIndexResponse(models=[index])
