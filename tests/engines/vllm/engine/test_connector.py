"""What vLLM finds of the connector before any engine starts."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest

from cachegen.engines.vllm.jobs import LoadJob, Report, Step
from cachegen.errors import UnsupportedCache
from tests.engines.vllm.identity.configs import vllm_config


def test_the_plugin_makes_the_name_known_and_may_be_called_again() -> None:
    from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory

    from cachegen.engines.vllm import CacheGenConnector

    (plugin,) = entry_points(group="vllm.general_plugins", name="cachegen")
    for _ in range(2):
        plugin.load()()
    assert KVConnectorFactory.get_connector_class_by_name("CacheGenConnector") is CacheGenConnector


def test_every_method_of_vllm_is_answered() -> None:
    from vllm.distributed.kv_transfer.kv_connector.v1.base import supports_hma

    from cachegen.engines.vllm import CacheGenConnector

    assert not CacheGenConnector.__abstractmethods__ and supports_hma(CacheGenConnector)
    for method in ("supports_sleep_mode", "unregister_kv_caches", "restore_kv_caches"):
        assert callable(getattr(CacheGenConnector, method)), "since vLLM 0.33"
    assert not CacheGenConnector.supports_sleep_mode(None)
    assert not CacheGenConnector.requires_piecewise_for_cudagraph({})


def test_sleep_mode_is_refused(tmp_path) -> None:
    from vllm.config import KVTransferConfig
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole

    from cachegen.engines.vllm import CacheGenConnector

    transfer = KVTransferConfig(
        kv_connector="CacheGenConnector",
        kv_connector_module_path="cachegen.engines.vllm",
        kv_role="kv_both",
        kv_connector_extra_config={"store": str(tmp_path)},
    )
    config = vllm_config(kv_transfer_config=transfer)
    # A platform without it, as CPUs, refuses it before any connector is asked.
    config.model_config.enable_sleep_mode = True
    for role in KVConnectorRole:
        with pytest.raises(UnsupportedCache, match="without --enable-sleep-mode"):
            CacheGenConnector(config, role, kv_cache_config=None)


def test_jobs_travel_between_processes() -> None:
    import pickle

    from cachegen.engines.vllm.costs import Learned
    from cachegen.engines.vllm.identity.request import RequestIdentity
    from cachegen.engines.vllm.metadata import StepMetadata, WorkerMetadata

    job = LoadJob("r", b"1234", 0, 1, ((1,),), RequestIdentity(b"salt"))
    sent = StepMetadata(Step(loads=[job]))
    assert pickle.loads(pickle.dumps(sent)).step.loads == [job]
    slow, fast = (Learned(bytes_per_s=rate) for rate in (1.0, 2.0))
    first = WorkerMetadata(Report(("a",), (), (b"1",), (), fast))
    both = first.aggregate(WorkerMetadata(Report(("b",), ("b",), (), (b"2",), slow)))
    assert pickle.loads(pickle.dumps(both)).report == Report(
        ("a", "b"), ("b",), (b"1",), (b"2",), slow
    )


def test_a_policy_that_fails_requests_is_warned_of(caplog_vllm) -> None:
    from cachegen.engines.vllm.connector import _warn_of_policy

    _warn_of_policy("recompute")
    assert not caplog_vllm
    _warn_of_policy("fail")
    assert 'Set it to "recompute"' in caplog_vllm[0]


@pytest.fixture
def caplog_vllm():
    """What vLLM's logger says; it does not propagate."""
    import logging

    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logger, keep = logging.getLogger("vllm.cachegen"), Keep()
    logger.addHandler(keep)
    yield said
    logger.removeHandler(keep)
