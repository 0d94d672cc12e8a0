"""The tensorrtllm backend's own metrics, read as load."""

from anneal_serving.triton.load import Load, load_of

METRICS = """\
# HELP nv_trt_llm_request_metrics TRT LLM request metrics
# TYPE nv_trt_llm_request_metrics gauge
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="waiting",version="1"} 3
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="context",version="1"} 1
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="scheduled",version="1"} 8
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="max",version="1"} 512
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="tensorrt_llm",version="1"} 0.4875
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="used",model="tensorrt_llm",version="1"} 39
nv_inference_count{model="tensorrt_llm",version="1"} 100
"""


def test_waiting_scheduled_and_cache_share() -> None:
    assert load_of(METRICS) == Load(waiting=3, active=8, kv_used=0.4875)


def test_before_the_first_request_there_is_no_load() -> None:
    assert load_of("# nothing yet\n") == Load()
