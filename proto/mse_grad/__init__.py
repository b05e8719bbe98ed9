"""The contract of mse-grad: messages, tensors, the fast codec and the rules that client and server share."""
