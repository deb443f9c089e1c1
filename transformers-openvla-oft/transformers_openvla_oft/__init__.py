"""OpenVLA and OpenVLA-OFT policies for stock transformers."""
