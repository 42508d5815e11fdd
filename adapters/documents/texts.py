"""Every label of a statement in every language. Dari and Pashto use the words of Afghan hospitals and banks (بل, نمبر, بیلانس).

No vowel signs: a glyph that typst composes from letter and sign is copied out of the PDF twice. For the same reason ۀ is
one character. `{…}` are filled in by the renderer with text that is already formatted and isolated.
"""

from typing import NamedTuple

from schemas.tenant import Locale


class StatementTexts(NamedTuple):
    """`kinds` names ledger transfer kinds; `other` is for one that has no name here."""

    title: str
    billed_to: str
    policy: str
    patient: str
    account: str
    reference: str
    period: str
    period_range: str
    opening: str
    closing: str
    summary: str
    activity: str
    date: str
    document: str
    details: str
    debits: str
    credits: str
    balance: str
    no_activity: str
    open_invoices: str
    invoice_number: str
    invoice_date: str
    due_on: str
    invoice_total: str
    invoice_open: str
    nothing_open: str
    aging: str
    buckets: tuple[str, str, str, str, str, str]
    total: str
    unapplied: str
    amount_due: str
    overdue: str
    pay_now: str
    next_due: str
    in_your_favour: str
    nothing_to_pay: str
    how_to_pay: str
    quote_reference: str
    currency_note: str
    page: str
    logo: str
    kinds: dict[str, str]
    other: str


_EN = StatementTexts(
    title="Statement of account",
    billed_to="Billed to",
    policy="Policy",
    patient="Patient",
    account="Account",
    reference="Statement no.",
    period="Period",
    period_range="{start} – {end}",
    opening="Opening balance",
    closing="Closing balance",
    summary="Summary",
    activity="Activity",
    date="Date",
    document="Document",
    details="Details",
    debits="Charges",
    credits="Payments and credits",
    balance="Balance",
    no_activity="There was no activity in this period.",
    open_invoices="Open invoices",
    invoice_number="Invoice",
    invoice_date="Date",
    due_on="Due date",
    invoice_total="Invoice total",
    invoice_open="Still open",
    nothing_open="There are no open invoices.",
    aging="Open amounts by days past due",
    buckets=(
        "Not yet due",
        "{first}–{last} days",
        "{first}–{last} days",
        "{first}–{last} days",
        "{first}–{last} days",
        "Over {last} days",
    ),
    total="Total",
    unapplied="Credit not yet applied",
    amount_due="Amount due",
    overdue="Overdue",
    pay_now="please pay now",
    next_due="Due by {date}",
    in_your_favour="Credit in your favour",
    nothing_to_pay="There is nothing to pay.",
    how_to_pay="How to pay",
    quote_reference="Please quote {reference} with your payment.",
    currency_note="All amounts in {currency}.",
    page="Page {page} of {pages}",
    logo="Logo of {name}",
    kinds={
        "invoice": "Invoice",
        "invoice_void": "Invoice voided",
        "credit_note": "Credit note",
        "credit_release": "Payment released by credit note",
        "payment": "Payment",
        "allocation": "Credit applied",
        "unallocation": "Applied credit taken back",
        "refund": "Refund",
        "payment_reversal": "Payment reversed",
        "write_off": "Written off",
        "cash_rounding": "Cash rounding",
        "cash_rounding_reversal": "Cash rounding reversed",
        "adjustment": "Adjustment",
    },
    other="Other entry",
)

_AR = StatementTexts(
    title="كشف حساب",
    billed_to="الجهة المسؤولة عن السداد",
    policy="رقم الوثيقة",
    patient="المريض",
    account="رقم الحساب",
    reference="رقم الكشف",
    period="الفترة",
    period_range="من {start} إلى {end}",
    opening="الرصيد الافتتاحي",
    closing="الرصيد الختامي",
    summary="ملخص الحساب",
    activity="حركة الحساب",
    date="التاريخ",
    document="رقم المستند",
    details="البيان",
    debits="مدين",
    credits="دائن",
    balance="الرصيد",
    no_activity="لم تسجل أي حركة خلال هذه الفترة.",
    open_invoices="الفواتير غير المسددة",
    invoice_number="رقم الفاتورة",
    invoice_date="تاريخ الفاتورة",
    due_on="تاريخ الاستحقاق",
    invoice_total="إجمالي الفاتورة",
    invoice_open="المبلغ المتبقي",
    nothing_open="لا توجد فواتير غير مسددة.",
    aging="أعمار المبالغ المستحقة بعدد أيام التأخر",
    buckets=(
        "غير مستحق بعد",
        "{first}–{last} يوما",
        "{first}–{last} يوما",
        "{first}–{last} يوما",
        "{first}–{last} يوما",
        "أكثر من {last} يوما",
    ),
    total="الإجمالي",
    unapplied="رصيد دائن غير مخصص",
    amount_due="المبلغ المستحق",
    overdue="متأخر عن موعد السداد",
    pay_now="يرجى السداد فورا",
    next_due="مستحق في موعد أقصاه {date}",
    in_your_favour="رصيد دائن لصالحكم",
    nothing_to_pay="لا يوجد مبلغ مستحق الدفع.",
    how_to_pay="طرق السداد",
    quote_reference="يرجى ذكر الرقم {reference} عند السداد.",
    currency_note="جميع المبالغ بعملة {currency}.",
    page="صفحة {page} من {pages}",
    logo="شعار {name}",
    kinds={
        "invoice": "فاتورة",
        "invoice_void": "إلغاء فاتورة",
        "credit_note": "إشعار دائن",
        "credit_release": "تحرير دفعة بإشعار دائن",
        "payment": "دفعة",
        "allocation": "تخصيص رصيد دائن",
        "unallocation": "إلغاء تخصيص رصيد دائن",
        "refund": "رد مبلغ",
        "payment_reversal": "عكس دفعة",
        "write_off": "شطب دين",
        "cash_rounding": "تقريب نقدي",
        "cash_rounding_reversal": "عكس تقريب نقدي",
        "adjustment": "تسوية",
    },
    other="قيد آخر",
)

_FA_AF = StatementTexts(
    title="صورت‌حساب",
    billed_to="پرداخت‌کننده",
    policy="نمبر بیمه‌نامه",
    patient="مریض",
    account="نمبر حساب",
    reference="نمبر صورت‌حساب",
    period="دوره",
    period_range="از {start} تا {end}",
    opening="بیلانس آغاز دوره",
    closing="بیلانس ختم دوره",
    summary="خلاصۀ حساب",
    activity="معاملات دوره",
    date="تاریخ",
    document="نمبر سند",
    details="شرح",
    debits="بدهی",
    credits="پرداخت و کریدت",
    balance="بیلانس",
    no_activity="در این دوره هیچ معامله‌ای ثبت نشده است.",
    open_invoices="بل‌های پرداخت‌ناشده",
    invoice_number="نمبر بل",
    invoice_date="تاریخ بل",
    due_on="موعد پرداخت",
    invoice_total="مبلغ بل",
    invoice_open="باقی‌مانده",
    nothing_open="هیچ بل پرداخت‌ناشده وجود ندارد.",
    aging="باقیات به اساس روزهای گذشته از موعد پرداخت",
    buckets=(
        "موعد نرسیده",
        "{first}–{last} روز",
        "{first}–{last} روز",
        "{first}–{last} روز",
        "{first}–{last} روز",
        "بیشتر از {last} روز",
    ),
    total="مجموع",
    unapplied="پیش‌پرداخت استفاده‌ناشده",
    amount_due="مبلغ قابل پرداخت",
    overdue="از موعد گذشته",
    pay_now="لطفا عاجل بپردازید",
    next_due="قابل پرداخت تا {date}",
    in_your_favour="طلب شما از شفاخانه",
    nothing_to_pay="هیچ مبلغی قابل پرداخت نیست.",
    how_to_pay="طریقۀ پرداخت",
    quote_reference="لطفا هنگام پرداخت نمبر {reference} را ذکر کنید.",
    currency_note="تمام مبالغ به {currency} است.",
    page="صفحۀ {page} از {pages}",
    logo="نشان {name}",
    kinds={
        "invoice": "بل",
        "invoice_void": "لغو بل",
        "credit_note": "سند کریدت",
        "credit_release": "آزادسازی پرداخت با سند کریدت",
        "payment": "پرداخت",
        "allocation": "مجرا دادن پیش‌پرداخت",
        "unallocation": "برگشت مجرایی پیش‌پرداخت",
        "refund": "بازپرداخت",
        "payment_reversal": "برگشت پرداخت",
        "write_off": "حذف طلب",
        "cash_rounding": "گرد کردن مبلغ نقدی",
        "cash_rounding_reversal": "برگشت گرد کردن مبلغ نقدی",
        "adjustment": "تعدیل",
    },
    other="ثبت دیگر",
)

_PS = StatementTexts(
    title="صورت حساب",
    billed_to="د پیسو ورکوونکی",
    policy="د بیمې شمېره",
    patient="ناروغ",
    account="د حساب شمېره",
    reference="د صورت حساب شمېره",
    period="موده",
    period_range="له {start} څخه تر {end} پورې",
    opening="د مودې لومړنی بیلانس",
    closing="د مودې وروستی بیلانس",
    summary="د حساب لنډیز",
    activity="د مودې معاملې",
    date="نېټه",
    document="د سند شمېره",
    details="تفصیل",
    debits="پور",
    credits="ورکړې او کریدت",
    balance="بیلانس",
    no_activity="په دې موده کې هېڅ معامله نه ده ثبت شوې.",
    open_invoices="نا ورکړل شوي بېلونه",
    invoice_number="د بېل شمېره",
    invoice_date="د بېل نېټه",
    due_on="د ورکړې نېټه",
    invoice_total="د بېل مبلغ",
    invoice_open="پاتې مبلغ",
    nothing_open="هېڅ نا ورکړل شوی بېل نشته.",
    aging="پاتې پورونه د ورکړې له نېټې د تېرو شویو ورځو له مخې",
    buckets=(
        "نېټه یې نه ده رسېدلې",
        "{first}–{last} ورځې",
        "{first}–{last} ورځې",
        "{first}–{last} ورځې",
        "{first}–{last} ورځې",
        "له {last} ورځو ډېرې",
    ),
    total="ټول",
    unapplied="نا کارول شوې مخکینۍ ورکړه",
    amount_due="د ورکړې وړ مبلغ",
    overdue="له نېټې تېر شوی",
    pay_now="مهرباني وکړئ سمدستي یې ورکړئ",
    next_due="تر {date} پورې د ورکړې وړ",
    in_your_favour="له روغتون څخه ستاسو طلب",
    nothing_to_pay="د ورکړې لپاره هېڅ مبلغ نشته.",
    how_to_pay="د ورکړې لارې",
    quote_reference="مهرباني وکړئ د ورکړې پر مهال {reference} شمېره یاده کړئ.",
    currency_note="ټول مبلغونه په {currency} دي.",
    page="{page} مخ له {pages} څخه",
    logo="د {name} نښان",
    kinds={
        "invoice": "بېل",
        "invoice_void": "د بېل لغوه کول",
        "credit_note": "د کریدت سند",
        "credit_release": "د کریدت په سند د ورکړې خوشې کول",
        "payment": "ورکړه",
        "allocation": "د مخکینۍ ورکړې مجرا کول",
        "unallocation": "د مجرا بېرته ګرځول",
        "refund": "د پیسو بېرته ورکول",
        "payment_reversal": "د ورکړې بېرته ګرځول",
        "write_off": "د پور له حسابه ایستل",
        "cash_rounding": "د نغدو پیسو ګردول",
        "cash_rounding_reversal": "د ګردولو بېرته ګرځول",
        "adjustment": "تعدیل",
    },
    other="بل ثبت",
)

STATEMENT: dict[Locale, StatementTexts] = {"en": _EN, "ar": _AR, "fa-AF": _FA_AF, "ps": _PS}
