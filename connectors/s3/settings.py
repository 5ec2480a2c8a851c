"""What requests to a bucket say beyond keys and content: who pays, where objects are kept, whose key encrypts them."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection

    from pydantic import SecretStr

COPIES = ("CopyObject", "UploadPartCopy")
"""Operations with two buckets, each with settings of its own."""


@dataclass(frozen=True)
class S3Settings:
    """Settings of a bucket's requests.

    Args:
        requester_pays: Whether the requester pays for transfers.
        storage_class: Where new objects are kept.
        kms_key_id: The key of KMS that new objects are encrypted with.
        customer_key: The key, in base64, that S3 encrypts objects with and does not keep.
    """

    requester_pays: bool = False
    storage_class: str | None = None
    kms_key_id: str | None = None
    customer_key: SecretStr | None = None

    @property
    def etags_are_md5(self) -> bool:
        """Whether encryption leaves the etag what it is."""
        return self.kms_key_id is None and self.customer_key is None

    def parameters(self, known: Collection[str]) -> dict[str, Any]:
        """Return the parameters for a call of boto3's client that takes those in `known`."""
        wanted: dict[str, Any] = {}
        if self.requester_pays:
            wanted["RequestPayer"] = "requester"
        if self.storage_class:
            wanted["StorageClass"] = self.storage_class
        if self.kms_key_id:
            wanted |= {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": self.kms_key_id}
        if self.customer_key:
            wanted |= {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": _key(self.customer_key)}
        return {name: value for name, value in wanted.items() if name in known}

    def of_source(self) -> dict[str, Any]:
        """Return the parameters with which a copy reads its source."""
        if self.customer_key is None:
            return {}
        return {"CopySourceSSECustomerAlgorithm": "AES256", "CopySourceSSECustomerKey": _key(self.customer_key)}

    def of_obstore(self) -> dict[str, Any]:
        """Return the arguments of obstore's store; the storage class is an attribute of each object there."""
        found: dict[str, Any] = {"request_payer": True} if self.requester_pays else {}
        if self.kms_key_id:
            found |= {"server_side_encryption": "aws:kms", "sse_kms_key_id": self.kms_key_id}
        if self.customer_key:
            key = self.customer_key.get_secret_value()
            found |= {"server_side_encryption": "sse-c", "sse_customer_key_base64": key}
        return found

    def register(self, client: Any) -> None:
        """Have boto3's client add the parameters to each of its calls that takes them."""

        def complete(params: dict[str, Any], model: Any, **_: Any) -> dict[str, Any]:
            if model.name in COPIES or model.input_shape is None:
                return params
            return self.parameters(model.input_shape.members) | params

        client.meta.events.register("provide-client-params.s3", complete)


def _key(customer_key: SecretStr) -> bytes:
    return base64.b64decode(customer_key.get_secret_value())
