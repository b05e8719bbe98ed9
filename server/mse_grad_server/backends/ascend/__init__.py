"""Ascend NPUs through ACL and the compiled custom operator. Only this package touches their libraries."""
