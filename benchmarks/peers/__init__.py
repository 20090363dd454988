"""Peers, one file each: a module here defines `PEERS`, a sequence of `benchmarks.peer.Peer`."""
