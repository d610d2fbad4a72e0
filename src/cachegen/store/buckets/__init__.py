"""Buckets of S3, GCS and Azure: obstore says how requests are authorised, our client sends them."""
