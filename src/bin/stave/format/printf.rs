//! `printf`, the verbs that templates use.

use serde_json::Value;

use super::value;

/// Wider fields are somebody's mistake.
const WIDTH_LIMIT: usize = 4096;

/// What stands between the percent sign and the verb.
#[derive(Default)]
struct Flags {
    left: bool,
    zeros: bool,
    sign: bool,
    alternate: bool,
    width: usize,
    precision: Option<usize>,
}

/// The text that `format` makes of `arguments`; all of them must be used.
pub fn printf(format: &str, arguments: &[&Value]) -> Result<String, String> {
    let mut out = String::new();
    let mut left = arguments.iter();
    let mut characters = format.chars().peekable();
    while let Some(c) = characters.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if characters.next_if_eq(&'%').is_some() {
            out.push('%');
            continue;
        }
        let mut flags = Flags::default();
        while let Some(flag) = characters.next_if(|c| "-+#0 ".contains(*c)) {
            match flag {
                '-' => flags.left = true,
                '+' => flags.sign = true,
                '0' => flags.zeros = true,
                '#' => flags.alternate = true,
                _ => {}
            }
        }
        let mut number = || {
            let mut number: Option<usize> = None;
            while let Some(digit) = characters.next_if(char::is_ascii_digit) {
                let digit = digit.to_digit(10).unwrap_or(0) as usize;
                number = Some(number.unwrap_or(0).saturating_mul(10).saturating_add(digit));
            }
            number
        };
        flags.width = number().unwrap_or(0);
        if characters.next_if_eq(&'.').is_some() {
            let mut precision = 0_usize;
            while let Some(digit) = characters.next_if(char::is_ascii_digit) {
                precision =
                    precision.saturating_mul(10).saturating_add(digit.to_digit(10).unwrap_or(0) as usize);
            }
            flags.precision = Some(precision);
        }
        if flags.width.max(flags.precision.unwrap_or(0)) > WIDTH_LIMIT {
            return Err(format!("a width is above {WIDTH_LIMIT}"));
        }
        let verb = characters.next().ok_or("`%` stands alone at the end")?;
        let argument = left.next().ok_or_else(|| format!("there is no value for `%{verb}`"))?;
        let piece = piece(verb, argument, &flags)?;
        pad(&mut out, &piece, &flags);
    }
    match left.len() {
        0 => Ok(out),
        more => Err(format!("{more} values more than the format has verbs")),
    }
}

fn piece(verb: char, argument: &Value, flags: &Flags) -> Result<String, String> {
    let wrong = || format!("`%{verb}` does not go with {}", value::kind(argument));
    let signed = |text: String| if flags.sign && !text.starts_with('-') { format!("+{text}") } else { text };
    let whole =
        || argument.as_i64().map(i128::from).or_else(|| argument.as_u64().map(i128::from)).ok_or_else(wrong);
    let shortened = |text: String| match flags.precision {
        Some(precision) => text.chars().take(precision).collect(),
        None => text,
    };
    Ok(match verb {
        'v' => value::text(argument),
        's' => shortened(value::text(argument)),
        'd' => signed(whole()?.to_string()),
        'x' | 'X' => {
            let text = match argument {
                Value::String(text) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
                _ if flags.alternate => format!("{:#x}", whole()?),
                _ => format!("{:x}", whole()?),
            };
            if verb == 'X' { text.to_uppercase() } else { text }
        }
        'o' => format!("{:o}", whole()?),
        'b' => format!("{:b}", whole()?),
        'c' => u32::try_from(whole()?).ok().and_then(char::from_u32).ok_or_else(wrong)?.to_string(),
        't' => argument.as_bool().ok_or_else(wrong)?.to_string(),
        'q' => match argument {
            Value::String(text) => Value::String(shortened(text.clone())).to_string(),
            Value::Array(items) => {
                let quoted: Vec<String> = items.iter().map(Value::to_string).collect();
                format!("[{}]", quoted.join(" "))
            }
            _ => return Err(wrong()),
        },
        'f' | 'F' => {
            let number = argument.as_f64().ok_or_else(wrong)?;
            signed(format!("{number:.*}", flags.precision.unwrap_or(6)))
        }
        'g' => signed(argument.as_f64().ok_or_else(wrong)?.to_string()),
        'T' => value::kind(argument).trim_start_matches("a ").trim_start_matches("an ").to_owned(),
        _ => return Err(format!("`%{verb}` is not known")),
    })
}

fn pad(out: &mut String, piece: &str, flags: &Flags) {
    let missing = flags.width.saturating_sub(piece.chars().count());
    if flags.left {
        out.push_str(piece);
        out.extend(std::iter::repeat_n(' ', missing));
    } else if flags.zeros {
        let (sign, digits) = match piece.strip_prefix(['-', '+']) {
            Some(digits) => (&piece[..1], digits),
            None => ("", piece),
        };
        out.push_str(sign);
        out.extend(std::iter::repeat_n('0', missing));
        out.push_str(digits);
    } else {
        out.extend(std::iter::repeat_n(' ', missing));
        out.push_str(piece);
    }
}
