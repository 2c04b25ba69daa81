"""Microsoft Entra ID: gives a token to whoever asks; roles and secrets are not checked."""

from __future__ import annotations

from homer.azure.emulator.protocol import Answer, Refused, Request

TOKEN = "emulated-token"


def answer(request: Request) -> Answer:
    """Answers for `login.microsoftonline.com`."""
    host = f"https://{request.host}"
    tenant = request.path.split("/")[1]
    if request.path.endswith("/token"):
        token = {"token_type": "Bearer", "access_token": TOKEN}
        return Answer(200, {**token, "expires_in": 3599, "ext_expires_in": 3599})
    if "discovery/instance" in request.path:
        names = {"preferred_network": request.host, "preferred_cache": request.host}
        return Answer(
            200,
            {
                "tenant_discovery_endpoint": f"{host}/t/v2.0/.well-known/openid-configuration",
                "api-version": "1.1",
                "metadata": [{**names, "aliases": [request.host]}],
            },
        )
    if "openid-configuration" in request.path:
        base = f"{host}/{tenant}"
        return Answer(
            200,
            {
                "token_endpoint": f"{base}/oauth2/v2.0/token",
                "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                "issuer": f"{base}/v2.0",
            },
        )
    raise Refused(404, "NotFound", f"the emulator has no route for {request.path}")


def check(request: Request) -> None:
    """Refuses a request without a token.

    Raises:
        Refused: With status 401.
    """
    if request.headers.get("Authorization") != f"Bearer {TOKEN}":
        raise Refused(401, "AuthenticationFailed", "The 'Authorization' header is missing.")
