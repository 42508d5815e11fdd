"""The embedded stack: real NATS, PostgreSQL and S3 servers from wheels, for demos, tests and benchmarks."""

from tools.stack.nats_server import NatsServer
from tools.stack.postgres import PostgresServer
from tools.stack.process import StackError
from tools.stack.seaweedfs import SeaweedFS
from tools.stack.stack import Stack

__all__ = ["NatsServer", "PostgresServer", "SeaweedFS", "Stack", "StackError"]
