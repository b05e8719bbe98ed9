"""The contract between client and server: messages, tensors, the fast codec, rules and reasons.

Imports no other package of the product.
"""
