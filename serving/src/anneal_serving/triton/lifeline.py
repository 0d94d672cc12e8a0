"""A replica ends with its model.

Triton goes on saying that it is ready when the Python process of a model is gone (killed for want of memory, say): what ran
hangs until it times out, and so does what comes. Killed with it, the replica fails its streams at once and is started anew.
"""

import os
import subprocess

_WATCH = 'read -r word; [ "$word" = released ] || kill -KILL "$0"'
"""Waits for a word or the end of the pipe; $0 is the process to kill."""


class Lifeline:
    """Ends the process `server`, the one that started this one, when this one ends without a word.

    A shell waits for it: the kernel closes the pipe of a process, however it ends. Held once the model serves: that it
    could not be loaded Triton notices itself, and says why.
    """

    def __init__(self, server: int | None = None) -> None:
        words = ["/bin/sh", "-c", _WATCH, str(server or os.getppid())]
        # Out of reach of signals to the server's group.
        self._shell = subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)

    def release(self) -> None:
        """Let the server live on: this process ends in order."""
        self._shell.communicate(b"released\n")
