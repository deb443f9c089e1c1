"""Supervised fine-tuning of OpenVLA-OFT policies: demonstration reader, statistics, augmentation and trainer."""
