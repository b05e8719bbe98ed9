"""The service: takes predict, label and dout over gRPC, returns the gradient of the mean squared error."""
