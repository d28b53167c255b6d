"""Starting an emitted run: on this machine, or by handing its launch file to a cluster's tool."""
