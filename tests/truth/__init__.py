# SPDX-License-Identifier: Apache-2.0
"""Ground truth: real services and real clients beside the whole agent; what came out equals what was sent, exactly.

services/ and clients/ are the programs, each an ordinary one that knows nothing of tracing. launch.py starts services,
senders.py runs clients and keeps what they say they sent, ledger.py holds that against what the receiver got.
"""
