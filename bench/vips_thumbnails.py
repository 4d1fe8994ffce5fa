#!/usr/bin/env python3
"""The thumbnail job of sharp's benchmark with libvips, by pyvips, in processes of one thread each.

usage: vips_thumbnails.py FOLDER OUT PROCESSES

It prints images a second, from when every process is ready until all have written theirs.
"""
import multiprocessing
import os
import sys
import time

os.environ["VIPS_CONCURRENCY"] = "1"


def work(folder, out, names, ready):
    import pyvips

    pyvips.cache_set_max(0)  # the inputs repeat; nobody's photos do
    ready.wait()
    for name in names:
        image = pyvips.Image.thumbnail(os.path.join(folder, name), 720, height=588)
        image.jpegsave(os.path.join(out, name), Q=80)


def main():
    folder, out, processes = sys.argv[1], sys.argv[2], int(sys.argv[3])
    names = sorted(os.listdir(folder))
    context = multiprocessing.get_context("spawn")  # libvips does not live through a fork
    ready = context.Barrier(processes + 1)
    workers = [context.Process(target=work, args=(folder, out, names[n::processes], ready)) for n in range(processes)]
    for worker in workers:
        worker.start()
    ready.wait()
    started = time.perf_counter()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    print(len(names) / (time.perf_counter() - started))


if __name__ == "__main__":
    main()
