"""What asyncssh raises as ours."""

from __future__ import annotations

from blocks.base.errors import (
    AccessDeniedError,
    AuthError,
    ConnectorError,
    InvalidInputError,
    ObjectExistsError,
    ObjectNotFoundError,
    TerminalError,
    TransientError,
    UnsupportedError,
    service_error,
)

ERRORS: dict[str, type[ConnectorError]] = {
    "SFTPNoSuchFile": ObjectNotFoundError,
    "SFTPNoSuchPath": ObjectNotFoundError,
    "SFTPNotADirectory": ObjectNotFoundError,  # a file where the key has a folder; OpenSSH says "no such file"
    "SFTPPermissionDenied": AccessDeniedError,
    "SFTPWriteProtect": AccessDeniedError,
    "SFTPFileAlreadyExists": ObjectExistsError,
    "SFTPFileIsADirectory": InvalidInputError,
    "SFTPInvalidFilename": InvalidInputError,
    "SFTPInvalidParameter": InvalidInputError,
    "SFTPOpUnsupported": UnsupportedError,
    "SFTPConnectionLost": TransientError,
    "SFTPNoConnection": TransientError,
    "SFTPLockConflict": TransientError,
    "SFTPBadMessage": TransientError,
    "SFTPError": TerminalError,
    # Of SSH, and of the network below it
    "PermissionDenied": AuthError,
    "IllegalUserName": AuthError,
    "HostKeyNotVerifiable": AuthError,
    "KeyImportError": AuthError,
    "KeyEncryptionError": AuthError,
    "KeyExchangeFailed": TerminalError,
    "ProtocolNotSupported": TerminalError,
    "ChannelOpenError": TerminalError,
    "DisconnectError": TransientError,
    "TimeoutError": TransientError,
    "OSError": TransientError,
}
"""By class name; a class without a line of its own takes its base's. Source:
https://asyncssh.readthedocs.io/en/stable/api.html#exceptions
"""

ADVICE: dict[str, str] = {
    "SFTPNoSuchFile": "Check the key, and the basepath.",
    "SFTPPermissionDenied": "Give the login the right to it on the server.",
    "SFTPFailure": "The server does not say why: the disk may be full, or a folder where a file should be.",
    "SFTPOpUnsupported": "if_absent needs hard links: hardlink@openssh.com.",
    "PermissionDenied": "Check username, and password or private_key.",
    "HostKeyNotVerifiable": "Enter the server's public key as known_hosts, as ssh-keyscan prints it, once you have "
    "compared it with what the server's owner says.",
    **dict.fromkeys(("KeyImportError", "KeyEncryptionError"), "Check private_key, and its passphrase."),
    "ChannelOpenError": "Does the server offer SFTP, and to this login?",
    "OSError": "Are host and port right, and reachable from here?",
}


def sftp_error(verb: str, place: str, error: Exception) -> ConnectorError:
    """Translate what asyncssh, or the network below it, raised."""
    codes = [kind.__name__ for kind in type(error).__mro__]
    return service_error(verb, place, codes, str(error).partition("\n")[0], table=ERRORS, advice=ADVICE)
