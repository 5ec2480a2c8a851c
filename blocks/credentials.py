"""One block per identity. Empty fields mean the machine's own identity; nothing is looked up before first use."""

from blocks.aws_credentials import AwsCredentials

__all__ = ["AwsCredentials"]
