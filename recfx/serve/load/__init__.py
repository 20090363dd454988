"""The load generator: requests at times of their own choice, to any server of the Open Inference Protocol over HTTP."""
