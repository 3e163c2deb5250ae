"""S4ND (Nguyen et al. 2022, arXiv 2210.06583): other resolutions, progressive resizing, drop-in layers, video.

hyena train s4nd --profile quick        # all, seventeen minutes on 2 cores
hyena train s4nd.zero_shot --profile quick --set 'tasks=[silhouettes]'        # another image task
"""

from hyena.experiments.s4nd.dropin import DropIn
from hyena.experiments.s4nd.progressive import ProgressiveResizing
from hyena.experiments.s4nd.video import Video
from hyena.experiments.s4nd.zeroshot import ZeroShot

__all__ = ["DropIn", "ProgressiveResizing", "Video", "ZeroShot"]
