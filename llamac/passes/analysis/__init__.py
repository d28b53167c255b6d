"""Analyses of a program, which change nothing in it: FLOPs, memory, time, saved sets."""
