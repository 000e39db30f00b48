# SPDX-License-Identifier: Apache-2.0
"""The probes against real sockets, fact by fact of the wire: a scripted process, and all that it must give."""
