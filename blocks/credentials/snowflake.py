"""SnowflakeCredentials: an identity at Snowflake, and what its service and driver raise as our errors."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prefect.blocks.abstract import CredentialsBlock
from pydantic import Field, HttpUrl, SecretStr, model_validator

from blocks.base import errors
from blocks.base.addresses import Host, Url, check_encrypted
from blocks.base.block import ConnectorBlock
from blocks.base.errors import AuthError, ConnectorError, ThrottledError, lookup
from blocks.base.optional import require

if TYPE_CHECKING:
    from typing import Self

SNOWFLAKE_ERRORS: dict[str, type[ConnectorError]] = {
    # Numbers of the service, six digits.
    "000603": errors.TerminalError,
    "000604": errors.TerminalError,
    "000605": errors.TransientError,
    "000606": errors.InvalidInputError,
    "000615": errors.TransientError,
    "000625": errors.TransientError,
    "000630": errors.TerminalError,
    "000904": errors.NotFoundError,
    "001003": errors.InvalidInputError,
    "001430": errors.AlreadyExistsError,
    "002002": errors.AlreadyExistsError,
    "002003": errors.NotFoundError,
    "002043": errors.NotFoundError,
    "003001": errors.AccessDeniedError,
    "090105": errors.NotFoundError,
    "090106": errors.NotFoundError,
    "100090": errors.InvalidInputError,
    # Logging in. A session that has ended is a new one for the next attempt.
    "390103": errors.TransientError,
    "390104": errors.TransientError,
    "390110": errors.TransientError,
    "390111": errors.TransientError,
    "390112": errors.TransientError,
    "390113": errors.TransientError,
    "390114": errors.TransientError,
    "390115": errors.TransientError,
    "390195": errors.TransientError,
    "390186": errors.AccessDeniedError,
    "390189": errors.AccessDeniedError,
    "390201": errors.NotFoundError,
    "390422": errors.AccessDeniedError,
    "39*": errors.AuthError,
    # Numbers of the driver (snowflake/connector/errorcode.py); HTTP statuses come as 290000 + status.
    "250001": errors.TransientError,
    "250002": errors.TransientError,
    "250003": errors.TransientError,
    "250004": errors.InvalidInputError,
    "250005": errors.TransientError,
    "250012": errors.InvalidInputError,
    "2500*": errors.AuthError,
    "251001": errors.InvalidInputError,
    "251002": errors.InvalidInputError,
    "251003": errors.InvalidInputError,
    "251007": errors.InvalidInputError,
    "251009": errors.InvalidInputError,
    "251011": errors.TransientError,
    "251012": errors.TransientError,
    "251016": errors.TransientError,
    "251*": errors.AuthError,
    "252006": errors.TransientError,
    "252007": errors.TransientError,
    "252010": errors.TransientError,
    "252013": errors.TransientError,
    "252*": errors.InvalidInputError,
    "253002": errors.TransientError,
    "253003": errors.TransientError,
    "253009": errors.TransientError,
    "253*": errors.InvalidInputError,
    "254*": errors.TransientError,
    "254007": errors.AuthError,
    "255002": errors.MissingDriverError,
    "255005": errors.TransientError,
    "255*": errors.InvalidInputError,
    "290401": errors.AuthError,
    "290404": errors.NotFoundError,
    "290429": errors.ThrottledError,
    "290*": errors.TransientError,
    # SQLSTATE, for every other number.
    "02*": errors.NotFoundError,
    "08*": errors.TransientError,
    "0A*": errors.UnsupportedError,
    "21*": errors.InvalidInputError,
    "22*": errors.InvalidInputError,
    "23*": errors.InvalidInputError,
    "40*": errors.TransientError,
    "42*": errors.InvalidInputError,
    "42501": errors.AccessDeniedError,
    "42710": errors.AlreadyExistsError,
    "42S01": errors.AlreadyExistsError,
    "42S02": errors.NotFoundError,
    "53*": errors.TransientError,
    "54*": errors.InvalidInputError,
    "57014": errors.TerminalError,
    "57P03": errors.InvalidInputError,
    "HYT00": errors.TransientError,
    "XX*": errors.TerminalError,
    # Exceptions of the driver by name, for what has neither; a class without a line takes its base's.
    "BadGatewayError": errors.TransientError,
    "BadRequest": errors.TransientError,
    "BindUploadError": errors.TransientError,
    "ConfigSourceError": errors.InvalidInputError,
    "ConfigManagerError": errors.InvalidInputError,
    "DataError": errors.InvalidInputError,
    "DatabaseError": errors.TerminalError,
    "Error": errors.TerminalError,
    "ForbiddenError": errors.AccessDeniedError,
    "GatewayTimeoutError": errors.TransientError,
    "HttpError": errors.TransientError,
    "IntegrityError": errors.InvalidInputError,
    "InterfaceError": errors.InvalidInputError,
    "InternalError": errors.TerminalError,
    "InternalServerError": errors.TransientError,
    "MethodNotAllowed": errors.TransientError,
    "MissingDependencyError": errors.MissingDriverError,
    "NonRetryableTlsError": errors.AuthError,
    "NotSupportedError": errors.UnsupportedError,
    "OperationalError": errors.TransientError,
    "OtherHTTPRetryableError": errors.TransientError,
    "PresignedUrlExpiredError": errors.TransientError,
    "ProgrammingError": errors.InvalidInputError,
    "RefreshTokenError": errors.AuthError,
    "RequestExceedMaxRetryError": errors.TransientError,
    "RequestTimeoutError": errors.TransientError,
    "RevocationCheckError": errors.AuthError,
    "ServiceUnavailableError": errors.TransientError,
    "TokenExpiredError": errors.AuthError,
    "TooManyRequests": errors.ThrottledError,
}
"""https://docs.snowflake.com/en/developer-guide/python-connector/python-connector-api (errors), the driver's errors.py,
errorcode.py and network.py.
"""

SNOWFLAKE_ADVICE: dict[str, str] = {
    "000606": "Name a warehouse that the role may use.",
    "002003": "Is the name right, and may the role see it?",
    "003001": "Grant the role what it needs, or use another one.",
    "090105": "Is the database's name right, and may the role use it?",
    "090106": "Is the schema's name right, and may the role use it?",
    "390100": "Check user and password.",
    "390144": "Check user and private key: is its public half the user's RSA_PUBLIC_KEY?",
    "390318": "Give a new token.",
    "250003": "Is the account's name right, and its host reachable from here?",
    "251011": "Is the account's name right, and its host reachable from here?",
}

AT = re.compile(r'Row (\d+), column "[^"]*"\["([^"]+)":\d+\]')
"""Where in a file a COPY found what it cannot take."""

WORDS_HOLD_VALUES = {
    "100072": "a row has no value in a column that is NOT NULL",
    "100078": "a text is longer than its column",
    "100090": "several rows have the key of one row",
    "22": "a value does not fit its type",
    "23": "a constraint would be violated",
    "38": "a function failed",
    "P0": "a script or a function raised an exception",
    "100132": "a function failed",
    "100183": "a function failed",
    "100357": "a function failed",
}
"""What is said in place of the service's words, by number or class of SQLSTATE, where those may quote a value."""


class SnowflakeCredentials(ConnectorBlock, CredentialsBlock):
    """An identity at Snowflake: a password, a key pair, a token, a browser login, or the machine's workload identity.

    Example:
        ```python
        from blocks.credentials import SnowflakeCredentials

        credentials = SnowflakeCredentials.load("BLOCK_NAME")
        connection = credentials.get_client(database="analytics")
        ```
    """

    _block_type_name = "ETL Snowflake Credentials"
    _block_type_slug = "etl-snowflake-credentials"
    _documentation_url = HttpUrl(
        "https://docs.snowflake.com/en/developer-guide/python-connector/python-connector-connect"
    )

    account: Host = Field(description="Account identifier, such as organization-account.")
    user: str | None = Field(default=None, description="User to log in as. Not needed for workload_identity.")
    password: SecretStr | None = Field(
        default=None, description="Password of the user, or a programmatic access token."
    )
    private_key: SecretStr | None = Field(
        default=None, description="Private key of the user as PEM, for key pair authentication."
    )
    private_key_path: Path | None = Field(
        default=None, description="Path of the private key as PEM, instead of the key itself."
    )
    private_key_passphrase: SecretStr | None = Field(
        default=None, description="Passphrase of the private key. Leave it empty if the key is not encrypted."
    )
    authenticator: Literal[
        "snowflake",
        "snowflake_jwt",
        "externalbrowser",
        "okta_endpoint",
        "oauth",
        "username_password_mfa",
        "workload_identity",
    ] = Field(
        default="snowflake",
        description="How to log in. A private key makes it snowflake_jwt. The driver caches the tokens of "
        "externalbrowser and username_password_mfa if the account allows it.",
    )
    token: SecretStr | None = Field(
        default=None, description="Token for oauth, or for workload_identity by OIDC. It is never renewed."
    )
    workload_identity_provider: Literal["aws", "azure", "gcp", "oidc"] | None = Field(
        default=None, description="Provider of this machine's identity, for workload_identity."
    )
    endpoint: Url | None = Field(default=None, description="URL of Okta, for okta_endpoint.")
    role: str | None = Field(
        default=None,
        description="Role to work in, unless a Snowflake block names one. Defaults to the default role of the user.",
    )
    host: Host | None = Field(
        default=None,
        description="Host name of the server, for private links and tests. Defaults to that of the account.",
    )
    port: int = Field(default=443, ge=1, le=65535, description="Port of the server.")
    protocol: Literal["https", "http"] = Field(
        default="https", description="Protocol of the server; http only for tests on this machine. Defaults to https."
    )

    @model_validator(mode="after")
    def _needs(self) -> Self:
        needs = {
            "oauth": ("token",),
            "okta_endpoint": ("endpoint", "user", "password"),
            "workload_identity": ("workload_identity_provider",),
            "externalbrowser": ("user",),
            "username_password_mfa": ("user", "password"),
        }.get(self.authenticator, ("user",))
        if missing := [name for name in needs if not getattr(self, name)]:
            raise ValueError(f"authenticator {self.authenticator!r} needs {' and '.join(missing)}.")
        if self.private_key and self.private_key_path:
            raise ValueError("Give private_key or private_key_path, not both.")
        if self.authenticator in ("snowflake", "snowflake_jwt"):
            keys = bool(self.private_key or self.private_key_path)
            if not keys and (self.authenticator == "snowflake_jwt" or not self.password):
                raise ValueError("Give a password, or a private_key or private_key_path.")
        return self

    def check(self) -> str:
        """Log in, and return one sentence that says who is logged in.

        Raises:
            AuthError: The login was refused.
        """
        connection = self.get_client()
        try:
            user, role = connection.cursor().execute("SELECT current_user(), current_role()").fetchone()
        finally:
            connection.close(retry=False)
        return f"{self.place} lets {user} in, in role {role}."

    @property
    def place(self) -> str:
        """`snowflake://account`."""
        return f"snowflake://{self.account}"

    def get_client(self, **connect_kwargs: Any) -> Any:
        """Return a new connection of `snowflake.connector`, which the caller closes.

        Args:
            connect_kwargs: Options of `snowflake.connector.connect`, such as `database`, which replace ours.

        Raises:
            AuthError: The login was refused.
            TransientError: The service does not answer.
        """
        connector = require("snowflake.connector", extra="snowflake")
        timeouts: dict[str, Any] = {
            "login_timeout": 60,
            "network_timeout": 300,
            "platform_detection_timeout_seconds": 0,
        }
        options = {name: value for name, value in connect_kwargs.items() if value is not None}
        quiet = {"CLIENT_OUT_OF_BAND_TELEMETRY_ENABLED": False, "CLIENT_TELEMETRY_ENABLED": False}
        options["session_parameters"] = quiet | options.get("session_parameters", {})
        server = {"protocol": self.protocol, "host": self.host or self.account, "port": self.port} | options
        check_encrypted("{protocol}://{host}:{port}".format_map(server), allow_http=None)
        # A filter that is there already is not added again.
        logging.getLogger("snowflake.connector.network").addFilter(without_data)
        try:
            return connector.connect(**timeouts | self._login() | options)  # the secrets are in no variable
        except (connector.Error, *transport_errors()) as error:
            raise snowflake_error("connect to", self.place, error) from None

    def dbt_output(self) -> dict[str, Any]:
        """Return the login as a dbt profile has it, with a `SecretStr` for each secret."""
        key = SecretStr(self._pem()) if self.private_key else None
        has_key = bool(self.private_key or self.private_key_path)
        chosen = self.endpoint if self.authenticator == "okta_endpoint" else self.authenticator
        return {
            "account": self.account,
            "user": self.user,
            "password": None if has_key else self.password,
            "private_key": key,
            "private_key_path": str(self.private_key_path.expanduser()) if self.private_key_path else None,
            "private_key_passphrase": self.private_key_passphrase,
            "authenticator": None if has_key or self.authenticator == "snowflake" else chosen,
            "token": self.token,
            "workload_identity_provider": self.workload_identity_provider,
            "host": self.host,
            "port": self.port if self.host else None,
            "protocol": self.protocol if self.host else None,
        }

    def _login(self) -> dict[str, Any]:
        def plain(secret: SecretStr | None) -> str | None:
            return secret.get_secret_value() if secret else None

        arguments: dict[str, Any] = {
            "account": self.account,
            "user": self.user,
            "password": plain(self.password),
            "token": plain(self.token),
            "authenticator": self.endpoint if self.authenticator == "okta_endpoint" else self.authenticator,
            "workload_identity_provider": self.workload_identity_provider and self.workload_identity_provider.upper(),
            "role": self.role,
            "host": self.host,
            "port": self.port,
            "protocol": self.protocol,
            "client_store_temporary_credential": self.authenticator == "externalbrowser" or None,
            "client_request_mfa_token": self.authenticator == "username_password_mfa" or None,
        }
        if self.private_key or self.private_key_path:
            arguments |= {"authenticator": "snowflake_jwt", "private_key": self._private_key(), "password": None}
        return {name: value for name, value in arguments.items() if value is not None}

    def _pem(self) -> str:
        """Return the private key as PEM.

        Raises:
            AuthError: It is not PEM.
        """
        text = self.private_key.get_secret_value() if self.private_key else ""
        # Forms and secret stores turn the line ends of a PEM into spaces, or into \n in letters.
        try:
            return "\n".join([*_pem_parts(text.replace("\\n", "\n")), ""])
        except ValueError as error:
            raise self._key_error(error) from None

    def _key_error(self, error: Exception) -> AuthError:
        return AuthError(
            f"Could not use the private key for {self.place}: {type(error).__name__}. Is it PEM, and the passphrase "
            "its own?"
        )

    def _private_key(self) -> bytes:
        """Return the private key as the driver takes it: DER, not encrypted."""
        serialization = require("cryptography.hazmat.primitives.serialization", extra="snowflake")
        secret = self.private_key_passphrase
        password = secret.get_secret_value().encode() if secret else None
        try:
            if self.private_key:
                pem = self._pem().encode()
            else:
                pem = Path(str(self.private_key_path)).expanduser().read_bytes()
            key = serialization.load_pem_private_key(pem, password=password)
        except (ValueError, TypeError, OSError) as error:
            raise self._key_error(error) from None
        der: bytes = key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return der


def _pem_parts(text: str) -> tuple[str, str, str]:
    r"""Return the first line, the rest and the last line of a PEM.

    >>> _pem_parts("-----BEGIN PRIVATE KEY----- ab cd -----END PRIVATE KEY-----")
    ('-----BEGIN PRIVATE KEY-----', 'ab\ncd', '-----END PRIVATE KEY-----')

    An encrypted one of the traditional form has headers, https://www.rfc-editor.org/rfc/rfc1421#section-4.6.

    >>> _pem_parts("---BEGIN KEY--- Proc-Type: 4,ENCRYPTED DEK-Info: AES-256-CBC,0A ab cd ---END KEY---")[1]
    'Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,0A\n\nab\ncd'
    """
    found = re.fullmatch(r"\s*(-{3,}[^-]+-{3,})(.*?)(-{3,}[^-]+-{3,})\s*", text, re.DOTALL)
    if found is None:
        raise ValueError("not a PEM")
    headers = [f"{name}: {value}" for name, value in re.findall(r"([\w-]+):\s*(\S+)", found[2])]
    lines = re.sub(r"[\w-]+:\s*\S+", "", found[2]).split()
    return found[1], "\n".join([*headers, "", *lines] if headers else lines), found[3]


def without_data(record: logging.LogRecord) -> bool:
    """Cut what was to be sent from the driver's words on a request that hangs, and return True: the record is logged.

    The words end in the statement with its values.
    """
    if isinstance(record.msg, str) and "Hanging?" in record.msg:
        record.msg = record.msg.partition(", headers:")[0]
    return True


def transport_errors() -> tuple[type[Exception], ...]:
    """Return what the driver lets through of its HTTP client: an answer that was cut in its body, for example."""
    requests = require("snowflake.connector.vendored.requests.exceptions", extra="snowflake")
    urllib3 = require("snowflake.connector.vendored.urllib3.exceptions", extra="snowflake")
    return requests.RequestException, urllib3.HTTPError, ConnectionError, TimeoutError


def snowflake_error(verb: str, place: str, error: BaseException) -> ConnectorError:
    """Return our error for what the driver raised while it tried to `verb` a `place`."""
    if isinstance(error, OSError) or ".vendored." in type(error).__module__:  # addresses in their words may be signed
        return errors.TransientError(f"Could not {verb} {place}: the connection was lost ({type(error).__name__}).")
    number: int | None = getattr(error, "errno", None)
    state: str | None = getattr(error, "sqlstate", None)
    errno = f"{number:06d}" if number and number > 0 else ""
    if number and number > 580_000:  # noqa: PLR2004 (the driver adds 290000 twice)
        errno = f"{number - 290_000:06d}"
    names = [kind.__name__ for kind in type(error).__mro__]
    words = _words(error)
    if errno == "250001" and "Incorrect username or password" in words:
        errno = "390100"
    found = (lookup(SNOWFLAKE_ERRORS, code) for code in (errno or None, state, *names))
    kind = next((kind for kind in found if kind), errors.TerminalError)
    hidden = WORDS_HOLD_VALUES.get(errno) or WORDS_HOLD_VALUES.get((state or "")[:2])
    if hidden and not errno.startswith("09"):  # those only name what the session lacks
        found_at = AT.search(words)
        words = hidden + (f", column {found_at[2].lower()}, row {found_at[1]} of a file" if found_at else "")
    label = ", ".join(part for part in (errno, f"SQLSTATE {state}" if state and state != "n/a" else "") if part)
    message = f"Could not {verb} {place}: {words.rstrip('.')}" + (f" ({label})." if label else ".")
    message = f"{message} {SNOWFLAKE_ADVICE.get(errno, '')}".rstrip()
    return ThrottledError(message) if kind is ThrottledError else kind(message)


def _words(error: BaseException) -> str:
    """Return the service's words in one line, with simple names in lower case, as they are written here."""
    raw = getattr(error, "raw_msg", None) or getattr(error, "msg", None) or str(error)
    text = re.sub(r"^(\d{6} \(\w+\): |\d{6}: |[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}: |None: )+", "", str(raw))
    text = " ".join(text.replace("SQL compilation error:", "").split())
    return re.sub(r"'([A-Z_][A-Z0-9_$.]*)'", lambda found: found[0].lower(), text) or type(error).__name__
