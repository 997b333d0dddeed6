"""The rivals, each in an environment of its own and in one small file: how it is installed and how it is started."""

from benchmarks.peers import litellm, smg, vllm_router

ALL = (litellm.PEER, vllm_router.PEER, smg.PEER)
