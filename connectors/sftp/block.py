"""Sftp: a folder on an SFTP server as an object store."""

from __future__ import annotations

from pydantic import Field, HttpUrl, SecretStr

from blocks.base.addresses import Host
from blocks.base.live import live
from blocks.stores.object_store import ObjectStore
from connectors.sftp.client import SftpStoreClient
from connectors.sftp.connection import Login


class Sftp(ObjectStore):
    """A folder on an SFTP server as an object store; it is made by the first write.

    Without a password or a key it logs in as `ssh` does on this machine: by its agent, the keys in `~/.ssh` and
    `~/.ssh/config`. SFTP keeps no metadata and no versions, and cannot compare and replace (`if_match`); `if_absent`
    needs a server with hard links, as OpenSSH is. A copy goes through this process.

    Example:
        ```python
        from connectors.sftp import Sftp

        inbox = Sftp.load("BLOCK_NAME")
        inbox.write_path("orders/2026-04-30.csv", b"order_id,amount")
        ```
    """

    _block_type_name = "ETL SFTP"
    _block_type_slug = "etl-sftp"
    _documentation_url = HttpUrl("https://asyncssh.readthedocs.io/en/stable/")

    host: Host = Field(description="Name or address of the server.")
    port: int = Field(default=22, ge=1, le=65535, description="Port of the server. Defaults to 22.")
    username: str | None = Field(default=None, description="Name to log in with. Defaults to this machine's user.")
    password: SecretStr | None = Field(default=None, description="Password. Defaults to logging in by a key.")
    private_key: SecretStr | None = Field(
        default=None,
        description="The text of a private key, in the format of OpenSSH or PEM. Defaults to the keys that ssh uses on "
        "the machine on which the flow runs.",
    )
    passphrase: SecretStr | None = Field(
        default=None, description="Passphrase of the private key. Defaults to a key without one."
    )
    known_hosts: str | None = Field(
        default=None,
        description="The server's public key, in lines as ssh-keyscan prints them. Defaults to ~/.ssh/known_hosts "
        "where the flow runs; a server that is not in it is refused.",
    )
    basepath: str = Field(
        default="",
        description="The folder that the block stands for: absolute, or relative to the folder in which the login "
        "starts. Defaults to that folder.",
    )
    read_timeout_s: float = Field(
        default=60.0, gt=0, description="Seconds the server may go without an answer. Defaults to 60."
    )

    @live
    def _client(self) -> SftpStoreClient:
        login = {name: getattr(self, name) for name in Login.__annotations__}
        return SftpStoreClient(self.basepath, Login(**login))
