"""The `laurel` command and the local stack."""

import os

# The children that we start only become other programs. With gRPC at work in this process its handlers for
# forks make one in six of them die on the way.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
