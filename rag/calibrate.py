"""What an embedding model says of texts that have nothing to do with each other.

Models differ in the range of their cosines: unrelated Chinese texts score 0.79 with one and 0.2
with another. A few ordinary passages, embedded once for a fingerprint, tell where "unrelated" lies,
for the model as a whole and for each question.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rag.text import Language, language
from rag.types import Embedder, Fingerprint

if TYPE_CHECKING:
    from rag.types import Matrix, Vector

_VERSION = "1"

_PASSAGES_ZH = (
    "蒸鱼之前先用少许盐和料酒腌十分钟，水开后上锅，大火蒸八分钟即可出锅，再淋上热油。",
    "木星是太阳系中体积最大的行星，它的质量是其他行星总和的两倍多，表面有著名的大红斑。",
    "员工请病假应当提前告知部门主管，并在返岗后三个工作日内提交医院证明。",
    "该公司去年营业收入同比增长百分之十二，净利润略有下降，主要由于原材料价格上涨。",
    "这条铁路全长三百多公里，于二十世纪初动工，连接沿海港口与内陆的矿区。",
    "多肉植物喜欢充足的阳光，浇水要见干见湿，冬季应放在室内避免冻伤。",
    "安装程序之前请关闭其他正在运行的软件，然后双击安装包并按照提示完成设置。",
    "他出生于南方的一个小镇，大学毕业后从事新闻工作，晚年专心写作小说。",
    "球队在主场以三比一战胜对手，凭借这场胜利升至积分榜第二位。",
    "合同自双方签字盖章之日起生效，任何一方违约应当承担相应的赔偿责任。",
    "高血压患者应减少食盐摄入，坚持适量运动，并按医生的嘱咐服药。",
    "这座寺庙建于明代，后来多次重修，现在是省级重点文物保护单位。",
    "小学的课程包括语文、数学、英语、音乐和体育，每节课四十分钟。",
    "这部电影讲述了一对兄弟在海边小城重新相认的故事，上映后广受好评。",
    "丘陵地区年平均降水量约一千二百毫米，河流众多，适合种植水稻和茶叶。",
    "服务器在夜间自动备份数据，备份文件保留三十天，超过期限的会被删除。",
)
_PASSAGES_EN = (
    "Season the chicken with salt and pepper, roast it for about an hour, and let it rest before carving.",
    "Saturn is best known for its rings, which are made mostly of ice particles with some rocky debris and dust.",
    "Employees must submit their travel expenses within thirty days, together with the original receipts.",
    "Quarterly revenue rose by eight percent while operating costs stayed flat, the company told its shareholders.",
    "The canal was opened in the nineteenth century and links two rivers across the northern plain.",
    "Tomato plants need plenty of sunlight and regular watering, and they should be tied to a stake as they grow.",
    "Before you install the update, close all other programs and make a copy of your settings.",
    "She was born in a small coastal town, studied law, and later became known for her short stories.",
    "The home side won the match three to one and moved up to second place in the table.",
    "This agreement enters into force on the date of signature and may be ended by either party in writing.",
    "Adults should get at least seven hours of sleep a night, and regular exercise lowers the risk of heart disease.",
    "The church was built in the fifteenth century and restored several times; its tower can be seen from far away.",
    "Pupils study mathematics, science, languages and art, and each lesson lasts forty-five minutes.",
    "The film tells the story of two sisters who meet again after many years; critics praised the acting.",
    "The region has mild winters and dry summers, and its main crops are olives, wheat and grapes.",
    "The server writes a log file every night, and files older than thirty days are removed.",
)
_CHATTER = (
    "今天天气怎么样",
    "你好",
    "写一首关于大海的诗",
    "给我讲个笑话",
    "你是谁",
    "帮我订一张明天去上海的机票",
    "晚饭吃什么好呢",
    "我今天心情不好，怎么办？",
    "1加1等于几",
    "推荐几部好看的电影",
    "怎么学好英语",
    "谢谢你的帮助",
    "现在几点了",
    "帮我写一封请假邮件",
    "人生的意义是什么",
    "翻译一下这句话",
    "你能做什么？",
    "股票最近会涨吗",
    "怎样才能减肥",
    "明天会下雨吗",
    "双色球怎么买",
    "给我女朋友过生日送什么礼物",
    "手机没电了怎么办",
    "附近有什么好吃的餐厅",
    "write me a poem about the sea",
    "hello there",
    "what is the weather like today",
    "tell me a joke",
    "who are you",
    "what should i cook for dinner tonight",
    "book me a flight to tokyo tomorrow",
    "what is the meaning of life",
    "how do i lose weight",
    "can you help me with my homework",
    "translate this sentence into french",
    "what time is it",
    "thanks for your help",
    "i feel sad today",
    "recommend me a good book",
    "how do i fix a flat tire",
    "what is two plus two",
    "write an email to my boss",
    "what can you do",
    "should i buy bitcoin",
    "how to train my puppy",
    "what are the best restaurants near me",
    "sing me a song",
    "what's on tv tonight",
)


@dataclass(frozen=True, slots=True)
class Calibration:
    """`floor` is the mean cosine of small talk with ordinary passages of its own language."""

    floor: float
    passages: dict[Language, Matrix]

    @classmethod
    def of(cls, embedder: Embedder, cache_dir: Path) -> Calibration:
        """Embeds some eighty short texts, once for a fingerprint; later reads them from the cache.

        Raises EmbedderError.
        """
        import numpy as np

        path = cache_dir / "calibration" / f"{_key(embedder.fingerprint)}.npy"
        size = len(_PASSAGES_ZH) + len(_PASSAGES_EN) + len(_CHATTER)
        try:
            vectors = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            vectors = None
        if vectors is None or vectors.shape != (size, embedder.fingerprint.dimension):
            vectors = _embedded(embedder)
            _keep(path, vectors)
        return cls._from(vectors)

    @classmethod
    def _from(cls, vectors: Matrix) -> Calibration:
        chinese, english = len(_PASSAGES_ZH), len(_PASSAGES_ZH) + len(_PASSAGES_EN)
        passages: dict[Language, Matrix] = {
            "zh": vectors[:chinese],
            "en": vectors[chinese:english],
        }
        said = zip(_CHATTER, vectors[english:], strict=True)
        means = [float((passages[language(text)] @ vector).mean()) for text, vector in said]
        return cls(sum(means) / len(means), passages)

    def floors(self, question: Vector) -> dict[Language, float]:
        """The mean cosine of this question with passages that have nothing to do with it."""
        return {tongue: float((p @ question).mean()) for tongue, p in self.passages.items()}


def _embedded(embedder: Embedder) -> Matrix:
    import numpy as np

    passages = embedder.embed_documents([*_PASSAGES_ZH, *_PASSAGES_EN])
    return np.vstack([passages, *(embedder.embed_query(text) for text in _CHATTER)])


def _key(fingerprint: Fingerprint) -> str:
    return hashlib.sha256(f"{_VERSION}|{fingerprint!r}".encode()).hexdigest()[:24]


def _keep(path: Path, vectors: Matrix) -> None:
    """Only a cache: where it cannot be written, the next start embeds again."""
    import numpy as np

    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.save(file, vectors, allow_pickle=False)
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
