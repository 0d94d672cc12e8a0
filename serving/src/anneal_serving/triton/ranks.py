"""A replica of several accelerators: tritonserver under mpirun, a process for each.

TensorRT-LLM's leader mode: rank 0 serves, the others load the engine's model and wait inside of it for what rank 0 tells
them. mpirun is never told to end: it would pass SIGTERM on late and kill soon after, whatever still streams (Open MPI 4.1,
`odls_base_sigkill_timeout`). SIGTERM goes to rank 0's server alone; once that has drained, its shell's exit code makes
mpirun end the others. Source of the command: scripts/launch_triton_server.py in TensorRT-LLM 1.2.
"""

from pathlib import Path

from anneal_serving.triton import tensors

_LEAD = '"$@" & echo $! > "$0"; wait $!; exit 1'
"""Shell of rank 0; $0 is the file for its server's process id."""


def command(ranks: int, server: list[str], leader: Path) -> list[str]:
    """Return mpirun's command line.

    Args:
        server: tritonserver's command line for one rank.
        leader: file that rank 0 writes its server's process id to.
    """
    others = [word for word in server if not word.startswith("--load-model=")]
    others.append(f"--load-model={tensors.MODEL}")
    # Open MPI binds each of two processes to one core unless told otherwise.
    words = ["mpirun", "--bind-to", "none", "-n", "1", "sh", "-c", _LEAD, str(leader), *_rank(server, 0)]
    for rank in range(1, ranks):
        words += [":", "-n", "1", *_rank(others, rank)]
    return words


def _rank(server: list[str], rank: int) -> list[str]:
    # Python models of two servers on one machine share memory by name.
    return [
        *server,
        "--disable-auto-complete-config",
        f"--backend-config=python,shm-region-prefix-name=prefix{rank}_",
    ]
