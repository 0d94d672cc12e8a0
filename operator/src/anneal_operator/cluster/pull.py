"""Answers of pods on their own ports: small, quick, believed only for display and scaling."""

import http.client

LIMIT = 256 * 1024
"""Bytes; a longer answer counts as none."""
TIMEOUT = 2.0


class HttpPods:
    """Pods by their address."""

    def get(self, address: str, port: int, path: str) -> str | None:
        """Return the answer, or None when it does not come in time, is an error or too long."""
        connection = http.client.HTTPConnection(address, port, timeout=TIMEOUT)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            data = answer.read(LIMIT + 1)
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return data.decode(errors="replace") if answer.status == 200 and len(data) <= LIMIT else None
