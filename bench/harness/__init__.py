"""What tunnel_bench.py and bench_check.py are made of; README.md in the folder above says how to use them."""
