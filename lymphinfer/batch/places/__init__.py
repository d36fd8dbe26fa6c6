"""Where tasks are done: in this process, in worker processes, on a Dask cluster."""
