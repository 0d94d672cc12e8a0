"""A real S3 server of a test's own: versitygw over a folder, on an address that pods reach."""

import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import s3fs
from cluster import tools
from tests.cluster.kube import Json


@dataclass(frozen=True)
class S3Server:
    """Where it answers, and the only keys it takes."""

    endpoint: str
    access: str
    secret: str

    @property
    def environment(self) -> dict[str, str]:
        """What a Secret for stores holds: keys, and beside them the address they are sent to."""
        return {
            "AWS_ACCESS_KEY_ID": self.access,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def kubernetes_secret(self, name: str, **changed: str) -> Json:
        """Return the Secret, labelled for its use."""
        meta = {"name": name, "labels": {"anneal.dev/use": "storage"}}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": meta,
            "stringData": self.environment | changed,
        }

    def filesystem(self) -> s3fs.S3FileSystem:
        """Return a view of it that remembers nothing."""
        return s3fs.S3FileSystem(
            key=self.access,
            secret=self.secret,
            endpoint_url=self.endpoint,
            use_listings_cache=False,
            skip_instance_cache=True,
        )


@contextmanager
def s3_server(folder: Path, address: str) -> Iterator[S3Server]:
    """Run one whose buckets are folders of `folder`."""
    tools.need("versitygw")
    with socket.socket() as held:
        held.bind((address, 0))
        port = int(held.getsockname()[1])
    server = S3Server(f"http://{address}:{port}", secrets.token_hex(8), secrets.token_hex(16))
    (folder / "buckets").mkdir()
    keys = {"ROOT_ACCESS_KEY": server.access, "ROOT_SECRET_KEY": server.secret}
    command = [tools.binary("versitygw"), "--port", f"{address}:{port}", "posix", folder / "buckets"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(word) for word in command], stdout=log, stderr=log, env=os.environ | keys, cwd=folder
        )
    try:
        _until_it_answers(process, address, port)
        yield server
    finally:
        process.terminate()
        process.wait()


def _until_it_answers(process: subprocess.Popen[bytes], address: str, port: int) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection((address, port), 1):
            return
        time.sleep(0.1)
    raise AssertionError(f"the S3 server does not answer on {address}:{port}")
