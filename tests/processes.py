"""Training in two processes inside a test: forked, so that nothing is imported again."""

import json
import os
import socket
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedType


def in_two_processes(function, folder):
    """What `function()` returns in each of two processes that train together (gloo, on the loopback)."""
    ends = ends_of_two_processes(function, folder)
    faults = [file.read_text() for file in sorted(Path(folder).glob("*.fault"))]
    assert ends == [0, 0], (ends, faults)
    return [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in (0, 1)]


def ends_of_two_processes(function, folder):
    """The exit codes of two processes that run `function()` together; errors are written to `RANK.fault`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in (0, 1):
        if child := os.fork():
            children.append(child)
            continue
        status = 1
        try:
            os.environ |= {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
            }  # fmt: skip
            for state in (AcceleratorState, PartialState, GradientState):
                state._reset_state()
            torch.set_num_threads(1)
            (Path(folder) / f"{rank}.json").write_text(json.dumps(function()))
            torch.distributed.destroy_process_group()
            status = 0
        except BaseException as fault:
            (Path(folder) / f"{rank}.fault").write_text(repr(fault))
        finally:
            os._exit(status)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


@contextmanager
def fsdp_on_cpus():
    """Let accelerate set up FSDP for processes on CPUs, as it does by itself for accelerators only."""
    begin = AcceleratorState.__init__

    def begin_sharded(self, *given, fsdp_plugin=None, **others):
        begin(self, *given, fsdp_plugin=fsdp_plugin, **others)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.fsdp_plugin = fsdp_plugin
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = begin_sharded
    try:
        yield
    finally:
        AcceleratorState.__init__ = begin
