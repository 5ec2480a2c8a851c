"""ConnectorBlock: the base of every block. Making or loading one opens nothing and imports no driver."""

from __future__ import annotations

import copy
import inspect
import json
import re
import threading
import typing
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from prefect.blocks.core import Block, UnknownBlockType, schema_extra
from prefect.exceptions import MissingContextError
from prefect.logging import get_logger, get_run_logger
from prefect.utilities.collections import remove_nested_keys
from prefect.utilities.dispatch import get_dispatch_key, get_registry_for_type
from pydantic import ConfigDict, Field, PrivateAttr, SecretStr, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from blocks.base.arguments import check_methods, nearest
from blocks.base.caching import key_by_identity
from blocks.base.errors import InvalidInputError, NotFoundError, one_line
from blocks.base.live import close_live, live
from blocks.base.names import text_problem
from blocks.base.operation import AsyncName, Operation
from blocks.base.reference import reference
from blocks.base.retry import RetryPolicy
from blocks.base.runs import SETTINGS, described

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from prefect.client.orchestration import PrefectClient
    from prefect.logging.loggers import LoggingAdapter
    from pydantic import ModelWrapValidatorHandler

T = TypeVar("T")
B = TypeVar("B", bound="ConnectorBlock")

ACRONYMS = {"api", "arn", "aws", "gcp", "http", "iam", "id", "ip", "kms", "sas", "sse", "ssl", "url"}
PLAIN_WORDS = {"basepath": "base path", "dir": "folder", "max": "maximum", "s": "(seconds)"}
LATE_FIELDS = ("_timeout_s", "_interval", "max_concurrency")
"""How fields end that hardly anybody changes."""


def field_title(name: str, field: object = None) -> str:  # noqa: ARG001 (pydantic's form)
    """Return the title of a field in the UI's form.

    >>> field_title("connect_timeout_s")
    'Connect timeout (seconds)'
    """
    words = [word.upper() if word in ACRONYMS else PLAIN_WORDS.get(word, word) for word in name.strip("_").split("_")]
    title = " ".join(words)
    return title[0].upper() + title[1:]


REFERENCE = re.compile(r'"#/definitions/([^"]+)"')
PREFECT_KEYS = {"block_type_slug", "_block_document_id", "_block_document_name", "_is_anonymous"}


def complete_schema(schema: dict[str, Any], kind: type[Block]) -> None:
    """Complete the schema by which Prefect's server checks a block that is a parameter of a run.

    A saved one is `{"$ref": ...}`, and the server wants that to fit its own rule for references and not ours as well;
    one that a client sends as it is has keys of Prefect's beside its fields.
    """
    schema_extra(schema, kind)
    if inspect.isabstract(kind):  # any block of that kind may come, with the fields that it has
        schema |= {"additionalProperties": True, "not": {"required": ["$ref"]}}
    else:
        schema |= {"additionalProperties": False, "patternProperties": {f"^({'|'.join(sorted(PREFECT_KEYS))})$": {}}}


def plain_form(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a block as the UI draws a plain form of it, without what only Prefect's server needs.

    A field that may be left empty is one of its type. As pydantic describes it, it is a choice between that type and
    None, which the form draws as a switch. A definition that no field refers to any more is left out.
    """
    schema = remove_nested_keys(["patternProperties", "not"], schema)
    definitions: dict[str, Any] = schema.pop("definitions", {})
    for part in (schema, *definitions.values()):
        part["description"] = part.get("description", "").partition("\n\n")[0]
        part["properties"] = {name: _plain_field(field) for name, field in part.get("properties", {}).items()}
    kept: dict[str, Any] = {}
    while new := {name for name in REFERENCE.findall(json.dumps([schema, kept])) if name not in kept}:
        kept |= {name: definitions[name] for name in sorted(new)}
    return schema | ({"definitions": kept} if kept else {})


def _plain_field(field: dict[str, Any]) -> dict[str, Any]:
    kinds = [kind for kind in field.get("anyOf", []) if kind != {"type": "null"}]
    if len(kinds) == len(field.get("anyOf", [])) or field.get("default") is not None:
        return field
    plain = {name: value for name, value in field.items() if name not in ("anyOf", "default")}
    return plain | (kinds[0] if len(kinds) == 1 else {"anyOf": kinds})


class ConnectorBlock(Block, ABC):
    """A typed description of an outside system that can be saved, and whose methods are operations.

    An unknown field is an error that names the nearest one. Secrets never show in `repr` or in errors. What a block
    opens is `@live`: made on first use, and dropped when the block is closed, pickled or copied.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid",
        ignored_types=(AsyncName, Operation, live),
        hide_input_in_errors=True,
        populate_by_name=True,
        field_title_generator=field_title,
    )

    retry: RetryPolicy = Field(
        default_factory=RetryPolicy,
        description="Attempts and waits of operations that fail with a transient error.",
    )

    _first_fields: ClassVar[tuple[str, ...]] = ()
    """Fields that come first in the form, in this order; the others follow by need."""

    _renamed: ClassVar[dict[str, str]] = {}
    """Fields by the names that saved blocks may have for them."""

    _live: dict[str, Any] = PrivateAttr(default_factory=dict)
    _lock: Any = PrivateAttr(default_factory=threading.RLock)

    if TYPE_CHECKING:

        @classmethod
        def load(cls, name: str, validate: bool = True, client: PrefectClient | None = None) -> Self:
            """Load the saved block of that name; within an event loop Prefect returns an awaitable of it."""

    else:  # type checkers take the fields from pydantic

        def __init__(self, *args: Any, **values: Any) -> None:
            try:
                super().__init__(*args, **values)
            except ValidationError as error:  # with a traceback of its own: the frames of this one hold the values
                found = _without_input(error)
                del self, args, values
            else:
                return
            raise found

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # Prefect's mixins stand after us among the bases, and pydantic takes the configuration of the last one.
        cls.model_config["extra"] = "forbid"
        cls.model_config["json_schema_extra"] = complete_schema
        check_methods(cls)

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        super().__pydantic_init_subclass__(**options)
        if inspect.isabstract(cls):
            _forget(cls)
        else:
            cls.__doc__ = reference(cls)
            key_by_identity(cls, cls.cache_identity, cls.cache_identity)

    @classmethod
    def __dispatch_key__(cls) -> str | None:
        # Prefect would build the JSON schema of our abstract classes too, at the import of every connector.
        return super().__dispatch_key__() if cls._block_type_slug else f"abstract {cls.__qualname__}"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]  # its fields can be assigned, so it cannot be a key

    @model_validator(mode="before")
    @classmethod
    def _name_unknown_fields(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = {cls._renamed.get(key, key): value for key, value in values.items()}
        known = cls._names()
        for key in values:
            if key not in known and key not in PREFECT_KEYS:
                raise ValueError(f"{cls.__name__} has no field {key!r}; {nearest(key, known, 'its fields are')}")
        return {key: cls._given(key, value) for key, value in values.items() if key not in PREFECT_KEYS}

    @classmethod
    def _given(cls, name: str, value: Any) -> Any:
        """Return the value of a field; None for the empty text or object that a form may send of an empty one."""
        empty = isinstance(value, str | dict) and not value
        return None if empty and name in cls.model_fields and cls.model_fields[name].default is None else value

    @model_validator(mode="wrap")
    @classmethod
    def _show_no_input(cls, values: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return validate(values)
        except ValidationError as error:
            found = _without_input(error)
        raise found

    @model_validator(mode="after")
    def _texts_can_be_sent(self) -> Self:
        for name, value in self:
            text = value.get_secret_value() if isinstance(value, SecretStr) else value
            if isinstance(text, str) and text and (problem := text_problem(text, allowed="\t\n\r")):
                raise ValueError(f"{name.strip('_')} {problem}")
        return self

    @classmethod
    def _open_fields(cls) -> dict[str, type[ConnectorBlock]]:
        """Return the fields that take blocks of an abstract class, such as any ObjectStore, with that class."""
        return {
            name: kind
            for name, field in cls.model_fields.items()
            for kind in (field.annotation, *typing.get_args(field.annotation))
            if isinstance(kind, type) and issubclass(kind, ConnectorBlock) and inspect.isabstract(kind)
        }

    @model_validator(mode="before")
    @classmethod
    def _revive_open_fields(cls, values: Any) -> Any:
        # Prefect hands out what a saved block refers to as the fields of it, and not always with its type.
        if not isinstance(values, dict):
            return values
        revived = {
            name: kind._revive(values[name])  # noqa: SLF001 (our own)
            for name, kind in cls._open_fields().items()
            if isinstance(values.get(name), dict)
        }
        return values | revived

    @classmethod
    def _revive(cls, fields: dict[str, Any]) -> Self:
        """Return a block of this kind with these fields: of the type that they name, or of the one that they fit."""
        if slug := fields.get("block_type_slug"):
            return cls.get_block_class_from_key(slug)(**fields)
        names = fields.keys() - PREFECT_KEYS
        fitting = [kind for kind in _types_of(cls) if kind._names() | kind._renamed.keys() >= names]  # noqa: SLF001 (our own)
        if not fitting:
            raise ValueError(f"not a block of type {cls.__name__}, nor the name of a saved one")
        return min(fitting, key=lambda kind: len(kind.model_fields))(**fields)

    @classmethod
    def _names(cls) -> set[str]:
        return {field.alias or name for name, field in cls.model_fields.items()} | set(cls.model_fields)

    def _to_block_document(self, *args: Any, **kwargs: Any) -> Any:
        document = super()._to_block_document(*args, **kwargs)
        for name in self._open_fields():
            if isinstance(inner := getattr(self, name), ConnectorBlock):
                document.data[name] = inner._reference(name)  # noqa: SLF001 (one of us)
        return document

    @classmethod
    def _is_open(cls, field: str) -> bool:
        """Tell whether a field takes any block of some kind; saved, and in forms, it is the name of a saved one."""
        return field in cls._open_fields()

    def _reference(self, field: str) -> str:
        """Return the name of this saved block, such as `etl-s3-bucket/raw`, as `resolve` takes it.

        Args:
            field: The field of another block that this one stands in, for the message.

        Raises:
            InvalidInputError: It is not saved.
        """
        if self._block_document_name is None:
            # The schema does not say which fields of some block of a kind are secret: they would not be masked.
            raise InvalidInputError(
                f"Save the block in {field} by itself first, or give the name of a saved one: within this one its "
                "secrets would be shown."
            )
        return f"{self.get_block_type_slug()}/{self._block_document_name}"

    @classmethod
    def register_type_and_schema(cls, *args: Any, **kwargs: Any) -> Any:
        """Register this type of block with Prefect's server, unless it is abstract."""
        return None if inspect.isabstract(cls) else super().register_type_and_schema(*args, **kwargs)

    @classmethod
    async def aregister_type_and_schema(cls, *args: Any, **kwargs: Any) -> None:
        """Register this type of block with Prefect's server, unless it is abstract."""
        if not inspect.isabstract(cls):
            await super().aregister_type_and_schema(*args, **kwargs)

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the schema, which is the form in the UI, with its fields in the order of need.

        What has to be entered comes first, then the credentials, then what the fewest blocks share; limits, concurrency
        and retries are last.
        """
        schema = super().model_json_schema(*args, **kwargs)
        kinds = [base for base in cls.__mro__ if issubclass(base, ConnectorBlock) and inspect.isabstract(base)]
        own, required = inspect.get_annotations(cls), schema.get("required", ())

        def need(name: str) -> tuple[int, int]:
            if name in cls._first_fields:
                return 0, cls._first_fields.index(name)
            shared = 0 if name in own else sum(name in kind._names() for kind in kinds)  # noqa: SLF001 (one of us)
            late = name == "retry" or name.endswith(LATE_FIELDS)
            return (1 if name in required else 2 if name.endswith("credentials") else 4 if late else 3), shared

        names = sorted(schema.get("properties", {}), key=need)
        for position, name in enumerate(names):
            schema["properties"][name]["position"] = position  # as in the form of a flow's parameters
        for name in cls._open_fields():
            # The server knows no block of an abstract type: such a field is the name of a saved block, which is text.
            schema["block_schema_references"].pop(name, None)
            described = {
                key: value for key, value in schema["properties"][name].items() if key not in ("anyOf", "$ref")
            }
            schema["properties"][name] = described | {"type": "string"}
        return plain_form(schema)

    @abstractmethod
    def check(self) -> str:
        """Check that the system is reachable and the identity allowed; return one sentence that says what was checked.

        Raises:
            ConnectorError: The message says what is wrong and what to do.
        """

    def _stands_for(self) -> str:
        """Return what system the block stands for, and what place in it: the same in every attempt of a run.

        Secrets, and settings that somebody may change before a retry, take no part.
        """
        fields = {name: value for name, value in self if isinstance(value, str) and name not in SETTINGS}
        return described([self._block_type_slug, fields])

    @property
    def logger(self) -> LoggingAdapter | Any:
        """The logger of the flow or task run, else one named like the class."""
        try:
            return get_run_logger()
        except MissingContextError:
            return get_logger(type(self).__name__)

    def cache_identity(self) -> str:
        """Return what a cached result belongs to: the class and its settings, without secrets and the retry policy."""
        settings = self.model_dump(mode="json", exclude={"retry"}, serialize_as_any=True)
        return json.dumps([f"{type(self).__module__}.{type(self).__qualname__}", settings], sort_keys=True)

    def close(self) -> None:
        """Close what the block keeps open: clients, connections, pools. The next call opens it again."""
        close_live(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        private = dict(state.get("__pydantic_private__") or {})
        private.pop("_live", None)
        private.pop("_lock", None)
        return {**state, "__pydantic_private__": private}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        self._live = {}
        self._lock = threading.RLock()

    def __copy__(self) -> Self:
        other = super().__copy__()
        other._live, other._lock = {}, threading.RLock()  # noqa: SLF001 (our own)
        return other

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        other = type(self).__new__(type(self))
        other.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return other


def _forget(kind: type[ConnectorBlock]) -> None:
    """Take an abstract class out of Prefect's registry: a server that starts shows all of it in its catalog."""
    registry: dict[str, type[Block]] = get_registry_for_type(Block) or {}
    registry.pop(get_dispatch_key(kind), None)


_forget(ConnectorBlock)


def _without_input(error: ValidationError) -> ValidationError:
    """Return the error without what was given, which may be a secret in a field that is misspelt."""
    found = [
        {
            "type": PydanticCustomError(each["type"], "{message}", {"message": one_line(each["msg"])}),
            "loc": each["loc"],
            "input": None,
        }
        for each in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return ValidationError.from_exception_data(error.title, found, hide_input=True)  # type: ignore[arg-type]


def _types_of(kind: type[B]) -> list[type[B]]:
    """Return the imported types of block of that kind."""
    return [
        each
        for child in kind.__subclasses__()
        for each in (child, *_types_of(child))
        if not inspect.isabstract(each) and each._block_type_slug  # noqa: SLF001 (our own)
    ]


def resolve(value: Block | str, kind: Callable[..., T]) -> T:
    """Return the block itself, or load the saved block that `"type-slug/name"` names.

    Args:
        value: A block, or the name of a saved one.
        kind: The class that it has to be of, which may be an abstract one such as Warehouse.

    Raises:
        InvalidInputError: It is neither, or a block of another kind, or no longer fits its type.
        NotFoundError: No such block is saved.
    """
    # `type[T]` would be refused by mypy for an abstract class: https://github.com/python/mypy/issues/4717
    wanted = cast("type[T]", kind)
    if isinstance(value, wanted):
        return value
    if not isinstance(value, str) or value.count("/") != 1:
        raise InvalidInputError(
            f"Expected a block of type {wanted.__name__}, or the name of a saved one such as 'etl-s3-bucket/raw', "
            f"got {value!r:.80}."
        )
    try:
        loaded = Block.load(value, _sync=True)  # type: ignore[call-arg]  # within an event loop too
    except ValueError as error:
        raise NotFoundError(
            f"No saved block {value!r}. See what is saved with 'prefect block ls'; save one with 'etl save FILE.toml'."
        ) from error
    except UnknownBlockType as error:  # of a collection that is not installed
        raise InvalidInputError(_of_another_collection(value)) from error
    except RuntimeError as error:
        if not isinstance(error.__cause__, ValidationError):
            raise
        raise InvalidInputError(
            f"The saved block {value!r} does not fit this version of its type. Save it again with 'etl save FILE.toml'."
        ) from error.__cause__
    if not isinstance(loaded, wanted):
        if not isinstance(loaded, ConnectorBlock):
            raise InvalidInputError(_of_another_collection(value))
        raise InvalidInputError(
            f"The saved block {value!r} is a {type(loaded).__name__}, but a block of type {wanted.__name__} is needed."
        )
    return loaded


def _of_another_collection(value: str) -> str:
    """Return what to write in place of the name of a block that is not one of ours."""
    ours = f"etl-{value}"
    known = ours.partition("/")[0] in (get_registry_for_type(Block) or {})
    instead = f"Write {ours!r}, which 'etl migrate --apply' makes of it" if known else "See 'etl migrate'"
    return f"{value!r} is a block of another collection. {instead}."
