"""TLS towards NATS, from NATS_TLS_CA_FILE, NATS_TLS_CERT_FILE and NATS_TLS_KEY_FILE, read again by the reconnect that finds them
changed."""

import ssl

from adapters.settings import NatsSettings, SettingsError
from adapters.tls import TlsFiles, client_context


def tls_of(settings: NatsSettings) -> ssl.SSLContext | None:
    """The context for `connect` and `broker_options`; None where no file is named: the system's CAs then count for tls:// URLs.

    Raises SettingsError where the files cannot be used.
    """
    files = TlsFiles(settings.nats_tls_ca_file, settings.nats_tls_cert_file, settings.nats_tls_key_file)
    if not files.any:
        return None
    try:
        return client_context(files)
    except OSError as error:  # ssl.SSLError is one
        raise SettingsError([f"NATS_TLS_*: the files cannot be used ({type(error).__name__})"]) from None
