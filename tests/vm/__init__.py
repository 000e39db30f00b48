# SPDX-License-Identifier: Apache-2.0
"""Virtual machines with stock kernels: how to boot one (guest.py) and what is tested in it (test_matrix.py)."""
