"""Master keys that lie wrapped in a file and are unwrapped by AWS KMS: what is mounted is of no use without the right to ask it.

Region, credentials and endpoint are found as every AWS client finds them (AWS_REGION, a pod's role, AWS_ENDPOINT_URL_KMS).
"""

from typing import Any

# Asked once per key, at the start and after a rotation; the process waits for it.
_CONNECT_SECONDS, _READ_SECONDS, _ATTEMPTS = 2, 3, 2


class KmsError(Exception):
    """KMS does not answer, or refuses. Its text has KMS's error code and nothing of the key."""


def unwrap(ciphertext: bytes, context: tuple[tuple[str, str], ...]) -> bytes:
    """The plain key of `Decrypt`; `context` are the pairs it was wrapped with. Raises KmsError."""
    import boto3  # type: ignore[import-untyped]
    from botocore.config import Config  # type: ignore[import-untyped]
    from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

    limits = Config(
        connect_timeout=_CONNECT_SECONDS, read_timeout=_READ_SECONDS, retries={"total_max_attempts": _ATTEMPTS}
    )
    try:
        answer: dict[str, Any] = boto3.client("kms", config=limits).decrypt(
            CiphertextBlob=ciphertext, EncryptionContext=dict(context)
        )
    except ClientError as error:
        raise KmsError(f"KMS refuses: {error.response.get('Error', {}).get('Code', 'unknown')}") from None
    except BotoCoreError as error:
        raise KmsError(f"KMS does not answer: {type(error).__name__}") from None
    return bytes(answer["Plaintext"])
