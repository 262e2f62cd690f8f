"""Judging adapters: scoring, contenders, uncertainty, and the report."""
