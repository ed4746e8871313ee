"""The packed dataset on disk: its layout, its writer, its reader, its checksums."""

from physnet_training.packed.reader import PackedDataset as PackedDataset
from physnet_training.packed.writer import PackedWriter as PackedWriter
