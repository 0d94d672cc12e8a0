"""One certificate authority, and a certificate and kubeconfig for everyone who talks to the API server."""

import base64
import json
import os
import pathlib
import secrets

from cluster import settings, shell

DAYS = "3650"
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
SERVER_NAMES = (
    "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,"
    "DNS:kubernetes.default.svc.cluster.local,IP:127.0.0.1,IP:10.96.0.1"
)


def authority(place: settings.Place = settings.LOCAL) -> None:
    """The authority, and the key pair that signs service account tokens."""
    place.pki.mkdir(parents=True, exist_ok=True)
    place.pki.chmod(0o700)
    if (place.pki / "service-accounts.pub").exists():
        return
    key, certificate = place.pki / "ca.key", place.pki / "ca.crt"
    shell.run(
        "openssl",
        "req",
        "-x509",
        *NEW_KEY,
        "-days",
        DAYS,
        "-subj",
        "/CN=anneal-local",
        "-keyout",
        key,
        "-out",
        certificate,
    )
    service_accounts(place.pki)


def service_accounts(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """The key pair that signs service account tokens, private and public."""
    private, public = folder / "service-accounts.key", folder / "service-accounts.pub"
    curve = "ec_paramgen_curve:prime256v1"
    shell.run("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", curve, "-out", private)
    shell.run("openssl", "pkey", "-in", private, "-pubout", "-out", public)
    return private, public


def issue(
    name: str,
    user: str,
    group: str | None = None,
    extensions: str = "extendedKeyUsage=clientAuth",
    place: settings.Place = settings.LOCAL,
) -> None:
    """A key and a certificate in which CN is the user and O the group."""
    key, request, certificate = (place.pki / f"{name}.{suffix}" for suffix in ("key", "csr", "crt"))
    if certificate.exists():
        return
    subject = (f"/O={group}" if group else "") + f"/CN={user}"
    shell.run("openssl", "req", *NEW_KEY, "-subj", subject, "-keyout", key, "-out", request)
    wanted = place.pki / f"{name}.ext"
    wanted.write_text(extensions)
    signer = (
        "-CA",
        place.pki / "ca.crt",
        "-CAkey",
        place.pki / "ca.key",
        "-set_serial",
        f"0x{secrets.token_hex(8)}",
    )
    shell.run(
        "openssl",
        "x509",
        "-req",
        "-in",
        request,
        *signer,
        "-days",
        DAYS,
        "-extfile",
        wanted,
        "-out",
        certificate,
    )
    request.unlink()
    wanted.unlink()


def server(place: settings.Place = settings.LOCAL) -> None:
    """The API server's own, and the one with which it calls kubelets."""
    issue(
        "apiserver",
        "kube-apiserver",
        extensions=f"subjectAltName={SERVER_NAMES},IP:{place.address}\nextendedKeyUsage=serverAuth",
        place=place,
    )
    issue("apiserver-kubelet", "kube-apiserver-kubelet-client", "system:masters", place=place)


def kubeconfig(
    name: str,
    user: str,
    group: str | None = None,
    path: pathlib.Path | None = None,
    place: settings.Place = settings.LOCAL,
) -> pathlib.Path:
    """A kubeconfig with its certificate inside, written in JSON, which is YAML too."""
    issue(name, user, group, place=place)
    path = path or place.pki / f"{name}.kubeconfig"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": settings.CONTEXT,
                "cluster": {
                    "server": place.api_server,
                    "certificate-authority-data": encoded("ca.crt", place),
                },
            }
        ],
        "users": [
            {
                "name": name,
                "user": {
                    "client-certificate-data": encoded(f"{name}.crt", place),
                    "client-key-data": encoded(f"{name}.key", place),
                },
            }
        ],
        "contexts": [{"name": settings.CONTEXT, "context": {"cluster": settings.CONTEXT, "user": name}}],
        "current-context": settings.CONTEXT,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as output:
        json.dump(content, output)
    return path


def encoded(name: str, place: settings.Place = settings.LOCAL) -> str:
    """A file of the PKI folder as kubeconfigs want it."""
    return base64.b64encode((place.pki / name).read_bytes()).decode()
