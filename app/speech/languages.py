"""The languages that Google's documentation lists for Speech-to-Text (supported languages, v1 and v2, 2026-11).

Which model has which language is Google's to say: a pair that does not exist comes back as `upstream_rejected`.
"""

_GOOGLE = """
af-ZA am-ET ar-AE ar-BH ar-DZ ar-EG ar-IL ar-IQ ar-JO ar-KW ar-LB ar-MA ar-MR ar-OM ar-PS ar-QA ar-SA ar-SY
ar-TN ar-YE as-IN ast-ES az-AZ be-BY bg-BG bn-BD bn-IN bs-BA ca-ES ceb-PH ckb-IQ cmn-Hans-CN cmn-Hans-HK
cmn-Hant-TW cs-CZ cy-GB da-DK de-AT de-CH de-DE el-GR en-AU en-CA en-GB en-GH en-HK en-IE en-IN en-KE en-NG
en-NZ en-PH en-PK en-SG en-TZ en-US en-ZA es-419 es-AR es-BO es-CL es-CO es-CR es-DO es-EC es-ES es-GT es-HN
es-MX es-NI es-PA es-PE es-PR es-PY es-SV es-US es-UY es-VE et-EE eu-ES fa-IR ff-SN fi-FI fil-PH fr-BE fr-CA
fr-CH fr-FR ga-IE gl-ES gu-IN ha-NG hi-IN hr-HR hu-HU hy-AM id-ID ig-NG is-IS it-CH it-IT iw-IL ja-JP jv-ID
ka-GE kam-KE kea-CV kk-KZ km-KH kn-IN ko-KR ky-KG lb-LU lg-UG ln-CD lo-LA lt-LT luo-KE lv-LV mi-NZ mk-MK ml-IN
mn-MN mr-IN ms-MY mt-MT my-MM ne-NP nl-BE nl-NL no-NO nso-ZA ny-MW oc-FR om-ET or-IN pa-Guru-IN pl-PL ps-AF
pt-BR pt-PT ro-RO ru-RU rw-RW sd-IN si-LK sk-SK sl-SI sn-ZW so-SO sq-AL sr-RS ss-Latn-ZA st-ZA su-ID sv-SE sw
sw-KE sw-TZ ta-IN ta-LK ta-MY ta-SG te-IN tg-TJ th-TH tn-Latn-ZA tr-TR ts-ZA uk-UA umb-AO ur-IN ur-PK uz-UZ
ve-ZA vi-VN wo-SN xh-ZA yo-NG yue-Hant-HK zh zh-CN zh-HK zh-TW zu-ZA auto
"""
GOOGLE = tuple(_GOOGLE.split())

EMULATOR = ("en-US", "en-GB", "en-AU", "en-CA", "en-IE", "en-IN", "en-NZ", "en-ZA")
"""What the embedded emulator's model is offered for: it hears English, whatever the accent."""
