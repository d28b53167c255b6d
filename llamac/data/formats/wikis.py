"""Data on wikis by language: templates that readers see, namespaces, redirects.

A template's pattern names its arguments in braces: `{2|1}` is the second argument or, if that is
empty, the first; `{text|1}` looks for a name first; `{*:-}` joins all positional arguments with a
dash. `<...>` is omitted where a field in it is empty. `@name` is a function of `templates`.
"""

# fmt: off
TEMPLATES: dict[str, tuple[tuple[str, str], ...]] = {
    "en": (  # templates of all wikis
        ("{1}",
         "nowrap, nobr, nobreak, small, smaller, big, bigger, large, larger, nobold, noitalic, "
         "smallcaps, small caps, sc, sc2, allcaps, abbr, tooltip, abbrlink, sup, sub, math, "
         "mvar, bigmath, var, mono, code, tt, kbd, samp, key, em, strong, bold, italic, "
         "underline, overline, strike, strikethrough, highlight, not a typo, as written, proper "
         "name, vanchor, visible anchor, format price, chem2, unicode, polytonic, flag, "
         "flagcountry, flagu, serif, sans-serif, vr, dfn, normal, center, pre, pre2, plainlist, "
         "flatlist, keypress, railgauge, track gauge, nihongo2, ruby, ucfirst, lcfirst, gapnum, "
         "number, num, nts, formatnum"),
        ("{2}", "lang, langx, script, rtl-lang"), ("{3|2|1}", "transl, transliteration"),
        ("{2|1}", "sort, color, colour, font color, resize, ipa, ipaslink"),
        ("{1}", "lang-"), ("[{1}]", "ipa-"), ("@sounds", "ipac-en"), ("{*:-}", "respell"),
        ("{1}< ({2})>", "nihongo"), ("⟨{1}⟩", "angbr, angle bracket, angbr ipa, grapheme"),
        ("{lt|1}", "ill, illm, ill-wd, interlanguage link, interlanguage link multi"),
        ("@lines", "unbulleted list, ubl, bulleted list, blist, ordered list"),
        ("{*: · }", "hlist"),
        ("\n{text|quote|1}\n",
         "quote, blockquote, block quote, bquote, cquote, centered quote, quotation, poemquote, "
         "poem quote"),
        ("@convert", "convert, cvt"), ("@val", "val"), ("@frac", "frac, sfrac, fraction, tfrac"),
        ("{*}", "chem, linktext, gaps"), ("×10^{1}", "e, esp, x10^"), ("@lower", "lc"),
        ("@upper", "uc"), ("@as_of", "as of, asof"), ("c. {1}<–{2}>", "circa, c., ca."),
        ("fl. {1}<–{2}>", "floruit, fl."), ("b. {1}", "born, b."), ("d. {1}", "died, d."),
        ("r. {1}<–{2}>", "reign, r."), ("né {1}", "né"), ("née {1}", "née, nee"),
        ("@date",
         "birth date, birth date and age, bda, birth-date, birth-date and age, death date, "
         "death date and age, dda, death-date, start date, start date and age, start-date, end "
         "date, end-date, film date, date, dts, release date, birth year and age"),
        ("{1} [O.S. {3}] {2}", "oldstyledate"), ("{1} {2}", "sortname, ship"), ("HMS {1}", "hms"),
        ("USS {1}", "uss"), ("SS {1}", "ss"), ("RMS {1}", "rms"), ("SMS {1}", "sms"),
        ("HMAS {1}", "hmas"), ("MV {1}", "mv"), ("HMCS {1}", "hmcs"), ("USNS {1}", "usns"),
        ("ISBN {1}", "isbn"), ("ISSN {1}", "issn"), ("OCLC {1}", "oclc"), ("{1} [sic]", "sic"),
        ("@note", "music"), ("US${1}", "us$, usd"), ("A${1}", "a$, aud"), ("C${1}", "c$, cad"),
        ("NZ${1}", "nz$, nzd"), ("£{1}", "£, gbp"), ("€{1}", "€, eur, euro"), ("₹{1}", "inr, ₹"),
        ("¥{1}", "¥, jpy, cny"), ("₩{1}", "krw, ₩"), ("₱{1}", "php, ₱"),
        (" ", "nbsp, space, spaces, thinsp, thin space, hairsp, hair space, nnbsp, quad, pad"),
        ("–", "ndash, en dash, endash"), ("—", "mdash, em dash, emdash, mdashb"),
        (" – ", "snd, spnd, spaced ndash, spaced en dash, sndash, dash"),
        (" — ", "smd, spaced mdash"), ("|", "!"), ("=", "="), (" · ", "·, dot, middot"),
        (" • ", "•, bull, bullet"), ("'s", "'s"), ("'", "', apostrophe"), ("'\"", "' \""),
        ("\"'", "\" '"), ("ʻ", "okina"), ("⇌", "eqm"), ("×", "times"), ("−", "minus"), ("±", "±"),
        ("→", "→"), ("°", "degree"), ("BC", "bc"), ("BCE", "bce"), ("AD", "ad"), ("CE", "ce"),
        ("[{1}]", "bracket, sqbrac"),
        ("",
         "rp, refn, efn, sfn, note, anchor, flagicon, main, see also, further, coord, clarify, "
         "fact"),
        ("", "citation, cite, r, s, m, ref, p., page, no, er, re, siècle, \", surface"),
    ),
    "fr": (
        ("{*: }",
         "unité, nombre, nb, date, date-, date de naissance, date de décès, date de naissance-, "
         "jour, surface, tmp"),
        ("{1}{2} siècle", "s, s-, siècle"), ("{1}{2} siècle av. J.-C.", "-s, -s-"),
        ("{1}{2} et {3}{4} siècles", "s2, s2-"), ("{1}{2}–{3}{4} siècles", "sp, sp-"),
        ("{1}{2} millénaire", "millénaire"), ("{1}{2} millénaire av. J.-C.", "-millénaire"),
        ("« {texte|citation|1} »", "citation, citation étrangère, guil, guillemets, \", «"),
        ("\n{texte|1}\n", "citation bloc, bloc citation, vers"),
        ("{1}",
         "abréviation, abréviation discrète, abrd, exp, ind, petit, petites capitales, "
         "souligner, japonais, incise, référence nécessaire, référence souhaitée, pays"),
        ("{2|1}", "langue, transcription, grec ancien"), ("{texte|fr|1|trad}", "lien"),
        ("{*}", "fchim, formule chimique"), ("{1} h< {2}>", "heure"), ("e", "e, ème"), ("er", "er"),
        ("re", "re, ère"), ("nd", "nd"), ("nde", "nde"), ("1er", "1er"), ("1re", "1re"),
        ("Ier", "ier"), ("M. {1}", "m., m"), ("Mme {1}", "mme"), ("Mlle {1}", "mlle"),
        ("Dr {1}", "dr"), ("no {1}", "n°, no, numéro"), ("p. {1}", "p."),
        ("{1} av. J.-C.", "av jc, av. j.-c."), ("apr. J.-C.", "apr jc, apr. j.-c."),
        (" ", "espace"),
    ),
    "de": (
        ("{1}",
         "abk, abkürzung, hoch, tief, arabisch, hebräisch, s, grs, las, ens, frs, its, els, "
         "rus, ess, zhs, jas, pls, nls, kapitälchen, taste, zahl, jahr, rotlink"),
        ("„{1}“", "\""), ("{1} m", "höhe"), ("‚{1}‘", "'"), ("{2|1}", "farbe"),
        ("@frac", "bruch"), ("{*: }", "datum"),
        ("\n{text|1}\n", "zitat, blockzitat, gedicht"),
    ),
    "es": (
        ("{*: }", "unidad, fecha"), ("siglo {1}", "siglo"), ("{1} a. C.", "ac, a. c."),
        ("{1}", "versalita, esd, definición, número, enlace interlingüe"), ("{2|1}", "idioma"),
        ("\n{texto|1}\n", "cita"), ("@convert", "convertir"), ("@frac", "fracción"),
    ),
    "it": (
        ("{1}< {2}{3}>", "m"), ("@convert", "converti"), ("{1}", "maiuscoletto, tutto attaccato"),
        ("\n{testo|1}\n", "citazione"), ("@frac", "frazione"), ("{1} a.C.", "a.c."),
        ("{*: }", "data"),
    ),
    "pt": (
        ("{*: }", "fmtn, unidade, dtext, data"), ("século {1}", "séc"), ("{1} a.C.", "a.c."),
        ("{1}", "nwrap, versalete"), ("\n{texto|1}\n", "citação"), ("@frac", "fração"),
    ),
    "nl": (
        ("\n{tekst|1}\n", "citaat"), ("{2|1}", "taal"), ("{1}", "kapitaal"), ("@frac", "breuk"),
    ),
    "pl": (
        ("\n{treść|1}\n", "cytat"), ("{2|1}", "w języku"), ("{1}", "małe, duże, liczba, skrót"),
        ("@frac", "ułamek"), ("{*: }", "data"),
    ),
    "ru": (
        ("{1}", "s, число, аббр, sokr, капитель, нижний индекс, верхний индекс, формат числа"),
        ("{2|1}",
         "langi, lang2, нп, нп1, нп2, нп3, нп4, нп5, не переведено, не переведено 2, не "
         "переведено 3, не переведено 5, iw"),
        ("\n{текст|1}\n", "цитата, врезка"), ("@frac", "дробь"), ("№", "№"), ("{*: }", "дата"),
        (" — ", "тире, ---"), ("«{1}»", "кавычки"), ("@convert", "перевод единиц"), ("₽", "рубль"),
    ),
    "uk": (
        ("{1}", "s, число, абр"), ("{2|1}", "langi"), ("{1}", "нп, не перекладено"),
        ("\n{текст|1}\n", "цитата"), ("@frac", "дріб"), (" — ", "тире"),
    ),
    "bg": (
        ("{1}", "s, число, мало"), ("{2|1}", "език"), ("\n{текст|1}\n", "цитат"), (" – ", "тире"),
    ),
    "sv": (
        ("\n{text|1}\n", "citat"), ("{2|1}", "språk"), ("{1}", "ej radbyte"), ("@frac", "bråk"),
    ),
    "zh": (
        ("{3|1}", "le, link-en, link-ja, link-fr, link-de, link-ru, link-es"), ("{3|2}", "tsl"),
        ("{1}", "僻字, 不轉換, 注音"), ("（{1}{2}－{3}{4}）", "bd"),
    ),
    "ja": (
        ("{label|1}", "仮リンク"), ("{1}（{2}）", "読み仮名, ふりがな"), ("\n{1}\n", "引用"),
        ("{1}", "ルビ, jis2004フォント, 補助漢字フォント, 要出典範囲, 拡張漢字, 縦書き"),
    ),
}

# Aliases and former names of the file and category namespaces, which dumps do not list.
NAMESPACES: dict[str, str] = {
    "en": "file, image, media, category", "de": "datei, bild, kategorie",
    "fr": "fichier, image, catégorie", "es": "archivo, imagen, categoría",
    "it": "immagine, categoria", "pt": "ficheiro, arquivo, imagem, categoria",
    "nl": "bestand, afbeelding, categorie", "pl": "plik, grafika, kategoria",
    "ca": "fitxer, imatge, categoria", "ru": "файл, изображение, картинка, категория, к",
    "uk": "файл, зображення, категорія, к", "be": "файл, выява, катэгорыя",
    "bg": "файл, картинка, категория", "sr": "датотека, слика, категорија",
    "mk": "податотека, слика, категорија", "hr": "datoteka, slika, kategorija",
    "sl": "slika, datoteka, kategorija", "cs": "soubor, kategorie",
    "sk": "súbor, obrázok, kategória", "da": "fil, billede, kategori", "sv": "fil, bild, kategori",
    "no": "fil, bilde, kategori", "nb": "fil, bilde, kategori", "fi": "tiedosto, kuva, luokka",
    "hu": "fájl, kép, kategória", "ro": "fișier, fişier, imagine, categorie",
    "el": "αρχείο, εικόνα, κατηγορία", "tr": "dosya, resim, kategori",
    "et": "pilt, fail, kategooria", "lt": "vaizdas, kategorija", "lv": "attēls, kategorija",
    "eu": "fitxategi, irudi, kategoria", "eo": "dosiero, kategorio",
    "la": "fasciculus, imago, categoria", "id": "berkas, gambar, kategori",
    "vi": "tập tin, hình, thể loại", "he": "קובץ, תמונה, קטגוריה", "ar": "ملف, صورة, تصنيف",
    "fa": "پرونده, تصویر, رده", "hi": "चित्र, श्रेणी", "th": "ไฟล์, ภาพ, หมวดหมู่",
    "zh": "文件, 档案, 檔案, 图像, 圖像, 图片, 圖片, 分类, 分類",
    "ja": "ファイル, 画像, カテゴリ",
    "ko": "파일, 그림, 분류",
}

# Words of `#WORD [[target]]`, in lower case. Dumps since 2009 mark redirects themselves.
REDIRECTS = frozenset((
    "redirect", "weiterleitung", "redirection", "redirección", "redireccion", "rinvia",
    "rinvio", "redirecionamento", "doorverwijzing", "patrz", "przekieruj", "tam",
    "перенаправление", "перенапр", "перенаправлення", "перанакіраваньне", "пренасочване", "виж",
    "přesměruj", "presmeruj", "omdirigering", "omdiriger", "átirányítás", "preusmeri",
    "преусмери", "preusmeritev", "redirecteaza", "ohjaus", "uudelleenohjaus", "yönlendirme",
    "重定向", "転送", "リダイレクト", "넘겨주기",
    "تحويل", "تغییر_مسیر", "הפניה", "đổi", "alih", "birzuzendu",
    "ανακατευθυνση", "suuna", "पुनर्प्रेषित", "alidirektu", "redirige",
))
# Short link prefixes of another site, not another language: their labels are shown.
SITES = frozenset((
    "mw", "doi", "rfc", "voy", "wmf", "hdl", "bug", "tools", "imdb", "isbn", "pmid",
))
# Magic words in page text, enclosed in two underscores on either side.
SWITCHES = frozenset((
    "NOTOC", "FORCETOC", "TOC", "NOEDITSECTION", "NEWSECTIONLINK", "NONEWSECTIONLINK",
    "NOGALLERY", "HIDDENCAT", "NOCONTENTCONVERT", "NOCC", "NOTITLECONVERT", "NOTC", "INDEX",
    "NOINDEX", "STATICREDIRECT", "DISAMBIG", "EXPECTUNUSEDCATEGORY", "NOGLOBAL", "ARCHIVEDTALK",
))
