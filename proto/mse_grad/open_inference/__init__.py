"""Messages of the Open Inference Protocol; only a server may import them, since a process can have one `inference`."""
