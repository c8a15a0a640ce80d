"""What people and models say in a made-up company: many languages, and what breaks pages."""

TALKS = {
    "en": (
        "The invoice of March shows the freight twice. Which line do I cancel, and what do I tell "
        "the customer?",
        "Cancel line 4: it repeats line 2. Tell them that a corrected invoice comes today.",
    ),
    "de": (
        "Die Donaudampfschifffahrtsgesellschaft hat zwei Frachtposten bezahlt. Welchen storniere "
        "ich?",
        "Stornieren Sie Position 4, sie wiederholt Position 2. Die Gutschrift folgt heute.",
    ),
    "fr": (
        "La facture de mars compte le fret deux fois : quelle ligne faut-il annuler ?",
        "Annulez la ligne 4, elle répète la ligne 2 ; une facture corrigée part aujourd’hui.",
    ),
    "pl": (
        "Faktura za marzec liczy fracht podwójnie. Którą pozycję anulować?",
        "Proszę anulować pozycję 4: powtarza pozycję 2. Korekta wyjdzie dzisiaj.",
    ),
    "tr": (
        "Mart faturasında navlun iki kez görünüyor. Hangi satırı iptal edeyim?",
        "4. satırı iptal edin; 2. satırın aynısı. Düzeltilmiş fatura bugün gelecek.",
    ),
    "ru": (
        "В счёте за март фрахт указан дважды. Какую строку отменить?",
        "Отмените строку 4: она повторяет строку 2. Исправленный счёт придёт сегодня.",
    ),
    "ar": (
        "تُظهر فاتورة مارس أجرة الشحن مرتين. أي سطر ألغي؟",
        "ألغِ السطر 4 لأنه يكرر السطر 2، وستصل الفاتورة المصححة اليوم.",
    ),
    "he": (
        "בחשבונית של מרץ מופיעה ההובלה פעמיים. איזו שורה לבטל?",
        "בטלו את שורה 4: היא חוזרת על שורה 2. חשבונית מתוקנת תישלח היום.",
    ),
    "hi": (
        "मार्च के बिल में भाड़ा दो बार लगा है। कौन सी पंक्ति रद्द करूँ?",
        "पंक्ति 4 रद्द करें, वह पंक्ति 2 दोहराती है। सुधरा हुआ बिल आज आएगा।",
    ),
    "ja": (
        "3月の請求書に運賃が二重に計上されています。どの行を取り消しますか。",
        "4行目を取り消してください。2行目と同じ内容です。訂正版は本日送ります。",
    ),
    "zh": (
        "三月的发票把运费算了两次，应该取消哪一行？",
        "请取消第4行，它与第2行重复。更正后的发票今天发出。",
    ),
}
"""Language → what a person asks, and a good answer."""

SCRIPT = "<script>window.__xss=1;alert(1)</script>"
NASTY = (
    SCRIPT,
    '"><img src=x onerror="window.__xss=2">',
    "{{ 7 * 7 }}</textarea><svg onload=window.__xss=3>",
    "javascript:window.__xss=4",
    "pay \u202eEUR 001 \u2066to\u2069 nobody",
    "a bell \x07, an escape \x1b[31mred\x1b[0m, a NUL \x00, a return \r over it",
    "Pneumonoultramicroscopicsilicovolcanoconiosis" * 12,
)
"""Texts that must stay texts: script, direction overrides, control characters, a very long word."""

LONG_NAME = "Abteilung-für-Donaudampfschifffahrtsfrachtrechnungen"
TEAMS = ("airline", "billing", "kundendienst", "الفواتير", LONG_NAME)
AGENTS = ("desk", "night-shift", "refunds", "<b>bold</b>")
FAMILIES = ("refund", "rebooking", "freight", "invoice", "greeting")
REASONS = ("too_long", "label", "no_outcome", "duplicate")


def talk(number: int) -> tuple[str, str, str]:
    """(language, question, answer), another one for each number."""
    language = list(TALKS)[number % len(TALKS)]
    asked, answered = TALKS[language]
    return language, asked, answered


def nasty(number: int) -> str:
    """One of the texts that must stay texts."""
    return NASTY[number % len(NASTY)]
