"""What HTTP and gRPC share of the Open Inference Protocol: limits, tensors as bytes, and documents about models."""
