# SPDX-License-Identifier: Apache-2.0
"""How many spans have their right parent, none, or a wrong one: of any tracer that exports OTLP.

plan.py says which requests are sent, runtimes.py to which services, load.py sends them; tracer.py runs the tracer;
received.py reads what it exported as spans.py's rows; score.py compares them with what the leaf wrote down; report.py
prints. selftest.py proves, on the spans of the run, that a wrong parent would have been seen.
"""
